import { describe, expect, it } from 'vitest';
import type { TensorFacts, TensorInfo } from '../../extension/protocol/types.ts';
import { bars, figuresOf, readable } from '../../webview/tensors/figures.ts';
import { chooseRows, nextSort, shapeText, type Sort } from '../../webview/ui/listRows.ts';
import { COLUMNS } from '../../webview/tensors/rows.ts';

const unsorted: Sort = { column: undefined, descending: false };

function tensor(name: string, shape: readonly number[], dtype = 'BF16'): TensorInfo {
  const parameters = shape.reduce((product, size) => product * size, 1);
  return { name, shape: [...shape], dtype, parameters, bytes: 2 * parameters };
}

const tensors = [tensor('layers.10.q.weight', [8, 4]), tensor('layers.9.q.weight', [8, 16]), tensor('norm.weight', [8], 'F32')];
const names = (rows: readonly TensorInfo[]) => rows.map(({ name }) => name);

describe('the rows of a file', () => {
  it('keep the order of the file until they are sorted', () => {
    expect(names(chooseRows(tensors, COLUMNS, '', unsorted))).toEqual(names(tensors));
    expect(names(chooseRows(tensors, COLUMNS, '', { column: 'name', descending: false }))).toEqual(['layers.9.q.weight', 'layers.10.q.weight', 'norm.weight']);
    expect(names(chooseRows(tensors, COLUMNS, '', { column: 'bytes', descending: true }))).toEqual(['layers.9.q.weight', 'layers.10.q.weight', 'norm.weight']);
    expect(names(chooseRows(tensors, COLUMNS, '', { column: 'shape', descending: false }))).toEqual(['norm.weight', 'layers.10.q.weight', 'layers.9.q.weight']);
    expect(names(chooseRows(tensors, COLUMNS, '', { column: 'dtype', descending: true }))[0]).toBe('norm.weight');
  });

  it('are those with every word of the search', () => {
    expect(names(chooseRows(tensors, COLUMNS, 'Q 10', unsorted))).toEqual(['layers.10.q.weight']);
    expect(chooseRows(tensors, COLUMNS, 'q norm', unsorted)).toEqual([]);
  });

  it('are sorted up, down and not at all', () => {
    const up = nextSort(unsorted, 'name');
    const down = nextSort(up, 'name');
    expect([up, down, nextSort(down, 'name')]).toEqual([{ column: 'name', descending: false }, { column: 'name', descending: true }, unsorted]);
    expect(nextSort(down, 'bytes')).toEqual({ column: 'bytes', descending: false });
  });

  it('write shapes out', () => {
    expect([shapeText([]), shapeText([3]), shapeText([3, 4])]).toEqual(['scalar', '3', '3 × 4']);
  });
});

describe('the figures of a tensor', () => {
  const facts: TensorFacts = {
    name: 'x', dtype: 'F32', shape: [2, 50], count: 100, nan: 2, infinite: 0, zeros: 5,
    minimum: -1, maximum: 1, mean: 0, deviation: 0.000123456, norm: 123456, low: -1, high: 1, histogram: [1, 0, 1_000_000, 1],
  };

  it('say what should be looked at', () => {
    const texts = figuresOf(facts);
    expect(texts.find(({ name }) => name === 'NaN')).toEqual({ name: 'NaN', value: '2 (2.0%)', bad: true });
    expect(texts.find(({ name }) => name === 'Infinite')).toEqual({ name: 'Infinite', value: '0', bad: false });
    expect(texts.find(({ name }) => name === 'Standard deviation')?.value).toBe('1.23e-4');
    expect(figuresOf({ ...facts, mean: null }).find(({ name }) => name === 'Mean')?.value).toBe('–');
  });

  it('have bars that show one value beside a million, and nothing where there is none', () => {
    const heights = bars(facts).map(({ height }) => height);
    expect(heights[2]).toBe(100);
    expect(heights[1]).toBe(0);
    expect(heights[0]).toBeGreaterThan(4);
    expect(bars(facts)[0]?.text).toBe('-1 to -0.5: 1');
    expect(bars({ ...facts, histogram: [0, 0] }).map(({ height }) => height)).toEqual([0, 0]);
  });

  it('are readable whatever their size', () => {
    expect([0, 0.5, -12345.6, 1e-9, 123456].map(readable)).toEqual(['0', '0.5', '-12300', '1.00e-9', '1.23e+5']);
  });
});
