import { describe, expect, test } from 'vitest';
import type { ProfileLayer } from '../../extension/protocol/types.ts';
import { facetsOf } from '../../webview/sensitivity/facets.ts';
import { even, spotAt } from '../../webview/ui/geometry.ts';
import { figureBlocks, Grid } from '../../webview/ui/grid.ts';
import { moved } from '../../webview/ui/moves.ts';
import { choose, drag, modeOf, NOTHING, type Selection } from '../../webview/ui/select.ts';
import { makeProfile, SMOL } from './heatmapProfile.ts';

const layer = (block: number, column: string, group: ProfileLayer['group'] = 'mlp'): ProfileLayer => ({
  name: `${block}.${column}`,
  block,
  column,
  group,
  shape: [4, 4],
  parameters: 16,
  bytes: 32,
  out_modes: [1, 4],
  in_modes: [4, 1],
});

/** Three blocks of three layers each: 0.a 0.b 0.c, 1.a … */
const grid = new Grid([0, 1, 2].flatMap(block => ['a', 'b', 'c'].map(column => layer(block, column))));
const names = ({ layers }: Selection) => [...layers].sort().join(' ');
const at = (row: number, column: number) => ({ row, column });

describe('the grid', () => {
  test('has attention before MLP, blocks in order, and short labels', () => {
    const profile = makeProfile({ ...SMOL, blocks: 12, columns: SMOL.columns.toReversed() });
    const found = new Grid(profile.layers.toReversed());
    expect(found.columns.map(({ label }) => label)).toEqual(['q', 'k', 'v', 'o', 'gate', 'up', 'down']);
    expect(found.blocks).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    expect(found.at(at(10, 0))?.name).toBe('model.layers.10.self_attn.q_proj');
    expect(found.spotOf('model.layers.10.mlp.down_proj')).toEqual(at(10, 6));
  });

  test('is the union over blocks that differ, with empty places, in the order of the whole ones', () => {
    const mixed = new Grid([layer(0, 'up'), layer(0, 'down'), layer(1, 'gate'), layer(1, 'up'), layer(1, 'down'), layer(2, 'gate'), layer(2, 'up'), layer(2, 'down')]);
    expect(mixed.columns.map(({ id }) => id)).toEqual(['gate', 'up', 'down']);
    expect(mixed.at(at(0, 0))).toBeUndefined();
    expect(mixed.at(at(0, 1))?.name).toBe('0.up');
    expect(mixed.at(at(0, 3))).toBeUndefined();
    expect(mixed.at(at(0, -1))).toBeUndefined();
    expect(mixed.within(at(0, 0), at(1, 1))).toEqual(['0.up', '1.gate', '1.up']);
  });

  test('tells labels apart that end alike', () => {
    const twins = new Grid([layer(0, 'self_attn.out_proj', 'attention'), layer(0, 'mlp.out_proj'), layer(0, 'mlp.gate_proj')]);
    expect(twins.columns.map(({ label }) => label)).toEqual(['self_attn.out', 'mlp.out', 'gate']);
  });

  test('is hit where its cells are', () => {
    const geometry = even(3, 50, 18);
    expect(spotAt(grid, geometry, 0, 0)).toEqual(at(0, 0));
    expect(spotAt(grid, geometry, 149.9, 53.9)).toEqual(at(2, 2));
    expect(spotAt(grid, geometry, 150, 10)).toBeUndefined();
    expect(spotAt(grid, geometry, 10, 54)).toBeUndefined();
    expect(spotAt(grid, geometry, -1, 10)).toBeUndefined();
  });

  test('knows the blocks of the paper’s figure', () => {
    const blocks = (count: number) => Array.from({ length: count }, (_, index) => index);
    expect(figureBlocks(blocks(32))).toEqual([0, 5, 15, 31]);
    expect(figureBlocks(blocks(30))).toEqual([0, 5, 14, 29]);
    expect(figureBlocks(blocks(2))).toEqual([0, 1]);
    expect(figureBlocks([7])).toEqual([7]);
    expect(figureBlocks([])).toEqual([]);
  });
});

describe('selecting', () => {
  const keys = (shiftKey: boolean, ctrlKey: boolean, metaKey = false) => modeOf({ shiftKey, ctrlKey, metaKey });

  test('goes by the usual keys', () => {
    expect([keys(false, false), keys(false, true), keys(false, false, true), keys(true, false), keys(true, true)]).toEqual(['only', 'toggle', 'toggle', 'extend', 'add']);
  });

  test('replaces, adds and takes away', () => {
    const one = choose(grid, NOTHING, at(0, 1), 'only');
    const two = choose(grid, one, at(2, 2), 'toggle');
    expect(names(two)).toBe('0.b 2.c');
    expect(names(choose(grid, two, at(0, 1), 'toggle'))).toBe('2.c');
    expect(names(choose(grid, two, at(1, 1), 'only'))).toBe('1.b');
  });

  test('spans from the anchor, which a range leaves where it is', () => {
    const start = choose(grid, NOTHING, at(1, 1), 'only');
    const down = choose(grid, start, at(2, 2), 'extend');
    expect(names(down)).toBe('1.b 1.c 2.b 2.c');
    expect(names(choose(grid, down, at(0, 0), 'extend'))).toBe('0.a 0.b 1.a 1.b');
    expect(names(choose(grid, choose(grid, down, at(0, 0), 'toggle'), at(0, 1), 'add'))).toBe('0.a 0.b 1.b 1.c 2.b 2.c');
  });

  test('takes whole rows and columns by their labels, and all by the corner', () => {
    const row = choose(grid, NOTHING, at(1, -1), 'only');
    expect(names(row)).toBe('1.a 1.b 1.c');
    expect(names(choose(grid, row, at(2, -1), 'extend'))).toBe('1.a 1.b 1.c 2.a 2.b 2.c');
    expect(names(choose(grid, row, at(-1, 0), 'toggle'))).toBe('0.a 1.a 1.b 1.c 2.a');
    expect(names(choose(grid, choose(grid, NOTHING, at(-1, 1), 'only'), at(-1, 2), 'extend'))).toBe('0.b 0.c 1.b 1.c 2.b 2.c');
    expect(choose(grid, NOTHING, at(-1, -1), 'only').layers.size).toBe(9);
  });

  test('takes a label away only when all of it is selected', () => {
    const some = choose(grid, NOTHING, at(1, 1), 'only');
    const all = choose(grid, some, at(1, -1), 'toggle');
    expect(names(all)).toBe('1.a 1.b 1.c');
    expect(names(choose(grid, all, at(1, -1), 'toggle'))).toBe('');
  });

  test('by a drag takes the rectangle, and keeps what was there where asked', () => {
    const before = choose(grid, NOTHING, at(2, 2), 'only');
    expect(names(drag(grid, NOTHING, at(1, 1), at(0, 0), false))).toBe('0.a 0.b 1.a 1.b');
    expect(names(drag(grid, before, at(0, 0), at(0, 1), true))).toBe('0.a 0.b 2.c');
  });
});

describe('charts', () => {
  const whole = new Grid(makeProfile(SMOL, 0).layers);
  const pick = (blocks: readonly number[], columns: readonly string[]) =>
    new Set(blocks.flatMap(block => SMOL.columns.filter(({ column }) => columns.some(end => column.endsWith(end))).map(({ column }) => `model.layers.${block}.${column}`)));
  const every = ['_proj'];
  const range = Array.from({ length: 30 }, (_, index) => index);

  test('are one for few layers, named as far as they differ', () => {
    const { facets, categories, left } = facetsOf(whole, pick([3], every));
    expect(facets.map(({ title, traces }) => [title, traces.length])).toEqual([['Block 3', 7]]);
    expect(categories).toEqual(['q', 'k', 'v', 'o', 'gate', 'up', 'down']);
    expect(left).toBe(0);
    expect(facetsOf(whole, pick([3, 4], ['up_proj'])).categories).toEqual(['Block 3 · up', 'Block 4 · up']);
  });

  test('are one a block for the paper’s figure, with one colour a layer kind', () => {
    const { facets, categories } = facetsOf(whole, pick([0, 5, 14, 29], every));
    expect(facets.map(({ title }) => title)).toEqual(['Block 0', 'Block 5', 'Block 14', 'Block 29']);
    expect(categories).toHaveLength(7);
    expect(facets.map(({ traces }) => traces[6]?.tone)).toEqual(Array.from({ length: 4 }, () => ({ category: 6 })));
  });

  test('are one a layer kind for many blocks, coloured by depth', () => {
    const { facets, categories, left } = facetsOf(whole, pick(range, every));
    expect(facets.map(({ title, traces }) => [title, traces.length])).toEqual(['q', 'k', 'v', 'o', 'gate', 'up', 'down'].map(title => [title, 30]));
    expect(categories).toBeUndefined();
    expect(left).toBe(0);
    expect([facets[0]?.traces[0]?.tone, facets[0]?.traces[29]?.tone]).toEqual([{ depth: 0 }, { depth: 1 }]);
  });

  test('say how many layers they leave out', () => {
    const wide = new Grid(range.flatMap(block => Array.from({ length: 20 }, (_, index) => layer(block, `expert${index}`))));
    const all = choose(wide, NOTHING, at(-1, -1), 'only');
    const { facets, left } = facetsOf(wide, all.layers);
    expect(facets).toHaveLength(12);
    expect(left).toBe(8 * 30);
  });

  test('are none for none', () => {
    expect(facetsOf(whole, new Set()).facets).toEqual([]);
  });
});

test.each([
  ['ArrowUp', false, 0, 1],
  ['ArrowDown', false, 2, 1],
  ['ArrowLeft', false, 1, 0],
  ['ArrowRight', false, 1, 2],
  ['PageUp', false, 0, 1],
  ['PageDown', false, 2, 1],
  ['Home', false, 1, 0],
  ['Home', true, 0, 0],
  ['End', false, 1, 2],
  ['End', true, 2, 2],
])('the key %s (with Control: %s) goes from the middle to row %d, column %d', (key, far, row, column) => {
  expect(moved(grid, { row: 1, column: 1 }, key, far)).toEqual({ row, column });
});

test('keys stop at the labels and at the ends, and others go nowhere', () => {
  expect(moved(grid, { row: 0, column: 0 }, 'ArrowUp', false)).toEqual({ row: -1, column: 0 });
  expect(moved(grid, { row: -1, column: -1 }, 'ArrowLeft', false)).toEqual({ row: -1, column: -1 });
  expect(moved(grid, { row: 2, column: 2 }, 'ArrowDown', false)).toEqual({ row: 2, column: 2 });
  expect(moved(grid, { row: 2, column: 2 }, 'x', false)).toBeUndefined();
});
