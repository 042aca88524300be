import { describe, expect, test } from 'vitest';
import type { CompareData, Evaluation, LayerFigures } from '../../extension/protocol/types.ts';
import { formatMeasured, formatShare } from '../../extension/views/measured.ts';
import { changeOf, COLUMNS, figureRows, sortLayers } from '../../webview/compare/figures.ts';

const evaluation = (perplexity: number, standard_error: number, tokens_per_second: number): Evaluation => ({
  data: 'builtin',
  perplexity,
  standard_error,
  tokens: 4096,
  tokens_per_second,
  prompt: 'a',
  sample: 'b',
});

const layer = (name: string, relative_error: number): LayerFigures => ({
  name,
  out_modes: [4, 4],
  in_modes: [8, 2],
  bond_dims: [5],
  parameters: 200,
  original_parameters: 256,
  bytes: 400,
  original_bytes: 512,
  keep: 200 / 256,
  relative_error,
  multiply_adds: 512,
  original_multiply_adds: 256,
  seconds: 1,
});

const data: CompareData = {
  original: { name: 'a', path: '/a', parameters: 1000, bytes: 2000, evaluation: evaluation(20, 0.5, 100) },
  compressed: { name: 'b', path: '/b', parameters: 500, bytes: 1000, evaluation: { ...evaluation(100, 2, 50), kl: 0.25, agreement: 0.5 } },
  layers: [layer('model.layers.10.q', 0.1), layer('model.layers.9.q', 0.3)],
};

describe('the columns of a layer', () => {
  const shown = (id: string, figures: Partial<LayerFigures>) => COLUMNS.find(column => column.id === id)?.text({ ...layer('a', 0.1), ...figures });

  test('say how its cores were found, and how far that holds on other text', () => {
    expect(shown('method', {})).toBe('plain');
    expect(shown('method', { method: 'fisher' })).toBe('data-aware');
    expect(shown('method', { method: 'input' })).toBe('by inputs');
    expect(shown('held_out', { held_out: 1.34 })).toBe('1.3×');
    expect(shown('held_out', { held_out: 25.2 })).toBe('25.2×');
    expect(shown('held_out', { held_out: null })).toBe('–');
    expect(shown('held_out', {})).toBe('–');
  });
});

describe('the figures of two models', () => {
  test('say what changed, and whether that is good', () => {
    expect(figureRows(data).map(({ name, original, compressed, change, good }) => [name, original, compressed, change, good])).toEqual([
      ['Parameters', '1.0 K', '500', '−50%', true],
      ['Size', '2.0 kB', '1.0 kB', '−50%', true],
      ['Perplexity', '20.00 ± 0.50', '100.0 ± 2.0', '×5', false],
      ['Tokens per second', '100', '50', '−50%', false],
      ['KL divergence', '–', '0.25 nats', '', undefined],
      ['Same first choice', '–', '50%', '', undefined],
    ]);
  });

  test('show what a plan had predicted, on the text that was measured', () => {
    const predicted = { parameters: 500, bytes: 1000, loss: Math.log(4), loss_error: Math.log(1.5), perplexity: 9 };
    const rows = figureRows({ ...data, predicted });
    expect(rows[3]).toMatchObject({ name: 'Predicted perplexity', compressed: '80 (53.3–120)' });
    expect(figureRows({ ...data, predicted: { ...predicted, loss: 20 } })[3]?.compressed).toBe('> 10\u202f000');
    expect(rows).toHaveLength(figureRows(data).length + 1);
  });

  test('call a difference within the errors neither better nor worse', () => {
    const close: CompareData = { ...data, compressed: { ...data.compressed, evaluation: evaluation(20.4, 0.5, 100) } };
    const row = figureRows(close).find(({ name }) => name === 'Perplexity');
    expect(row?.change).toBe('+2.0%');
    expect(row).not.toHaveProperty('good');
  });

  test('call a speed the same where the passes of one model differ as much', () => {
    const speed = (tokens_per_second: number, speed_noise: number): string | undefined =>
      figureRows({
        ...data,
        original: { ...data.original, evaluation: { ...evaluation(20, 0.5, 100), speed_noise } },
        compressed: { ...data.compressed, evaluation: evaluation(20, 0.5, tokens_per_second) },
      }).find(({ name }) => name === 'Tokens per second')?.change;
    expect(speed(108, 0.1)).toBe('same');
    expect(speed(93, 0.1)).toBe('same');
    expect(speed(112, 0.1)).toBe('+12%');
    expect(speed(108, 0)).toBe('+8.0%');
  });

  test('leave out what was not measured', () => {
    const quiet: CompareData = { ...data, original: { ...data.original, evaluation: null }, compressed: { ...data.compressed, evaluation: null } };
    expect(figureRows(quiet).map(({ name }) => name)).toEqual(['Parameters', 'Size']);
  });

  test.each([
    [100, 100.01, 'same'],
    [100, 399, '+299%'],
    [100, 400, '×4'],
    [100, 0, '−100%'],
    [0, 5, ''],
  ])('a change from %d to %d is %j', (before, after, text) => expect(changeOf(before, after, 'less').change).toBe(text));
});

describe('the table of layers', () => {
  test('sorts names as a person counts, and figures as numbers', () => {
    const sorted = (column: string, descending: boolean) => sortLayers(data.layers, { column, descending }).map(({ name }) => name);
    expect(sorted('name', false)).toEqual(['model.layers.9.q', 'model.layers.10.q']);
    expect(sorted('name', true)).toEqual(['model.layers.10.q', 'model.layers.9.q']);
    expect(sorted('error', false)).toEqual(['model.layers.10.q', 'model.layers.9.q']);
    expect(sorted('nothing', false)).toEqual(['model.layers.9.q', 'model.layers.10.q']);
  });

  test('says in every column what it is', () => {
    expect(COLUMNS.map(({ text }) => text(layer('x', 0.123)))).toEqual(['x', '5', 'plain', '78%', '12%', '–', '512 (200%)', '4×8 · 4×2']);
  });
});

test.each([
  [24.9, 0.622, '24.90 ± 0.62'],
  [512.4, 13.2, '512 ± 13'],
  [51.42, 6.2, '51.4 ± 6.2'],
  [3, 0, '3'],
  [Infinity, 1, 'Infinity'],
])('%d with the error %d reads %s', (value, error, text) => expect(formatMeasured(value, error)).toBe(text));

test.each([
  [0.9987, '99.8%'],
  [0.99995, '> 99.9%'],
  [1, '100%'],
  [0.932, '93%'],
])('%d of the original reads %s', (fraction, text) => expect(formatShare(fraction)).toBe(text));
