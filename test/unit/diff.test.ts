import { describe, expect, test } from 'vitest';
import type { TensorChange } from '../../extension/protocol/types.ts';
import { changeText, columnsOf, kindOf, percent, remarkOf, shapesText, storedText } from '../../webview/diff/rows.ts';
import { chooseRows } from '../../webview/ui/listRows.ts';

function change(name: string, found: TensorChange['found'], more: Partial<TensorChange> = {}): TensorChange {
  return { name, found, shape: [4, 8], other_shape: [4, 8], stored: 'BF16', other_stored: 'BF16', parameters: 32, ...more };
}

const tensors = [
  change('a', 'changed', { relative: 0.5, largest: 2 }),
  change('b', 'changed', { relative: 0.00012, largest: 0.5, other_stored: 'cores, χ 2' }),
  change('c', 'shape', { other_shape: [4, 9] }),
  change('d', 'unread', { problem: 'd is stored as gptq.' }),
  change('e', 'only-model', { other_shape: null, other_stored: null }),
  change('f', 'only-other', { shape: null, stored: null }),
  change('g', 'equal', { relative: 0, largest: 0 }),
];
const columns = columnsOf(() => 0.5);

describe('the tensors of two models', () => {
  test('say how far they are, or why nothing can be said', () => {
    expect(tensors.map(changeText)).toEqual(['50%', '0.012%', 'other shape', 'not read', 'gone', 'new', 'equal']);
    expect(changeText(change('z', 'changed', { relative: null, largest: 1 }))).toBe('from zero');
    expect(tensors.map(kindOf)).toEqual(['changed', 'changed', 'unread', 'unread', 'only', 'only', 'equal']);
    expect([percent(0.2345), percent(0.01234), percent(0.0000012)]).toEqual(['23%', '1.23%', '1.2e-6']);
    expect(tensors.map(remarkOf).map(text => text !== undefined)).toEqual([false, false, true, true, true, true, false]);
    expect(remarkOf(change('n', 'changed', { not_finite: 3 }))).toMatch(/^In 3 places/);
  });

  test('show both sides where these differ', () => {
    expect(tensors.map(shapesText)).toEqual(['4 × 8', '4 × 8', '4 × 8 → 4 × 9', '4 × 8', '4 × 8', '4 × 8', '4 × 8']);
    expect(tensors.map(storedText).slice(0, 2)).toEqual(['BF16', 'BF16 → cores, χ 2']);
  });

  test('are sorted by change, what has none at either end', () => {
    const sorted = (descending: boolean) => chooseRows(tensors, columns, '', { column: 'relative', descending }).map(({ name }) => name).join('');
    expect(sorted(true)).toBe('abcdefg');
    expect(sorted(false)).toBe('gfedcba');
    expect(chooseRows(tensors, columns, '', { column: 'largest', descending: true })[0]?.name).toBe('a');
  });

  test('have a bar as long as their part of the largest change', () => {
    const part = columns.find(({ id }) => id === 'relative')?.part;
    expect(tensors.slice(0, 3).map(tensor => part?.(tensor))).toEqual([1, 0.00024, undefined]);
  });
});
