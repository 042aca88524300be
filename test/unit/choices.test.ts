import { readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, test } from 'vitest';
import {
  balancedModes,
  bondDimsForChi,
  bondDimsForKeep,
  chiChoices,
  estimate,
  keepChoices,
  layerModes,
  maxBondDims,
  multiplyAdds,
  orderCount,
  parameterCount,
  parseTarget,
  type Sites,
} from '../../extension/plan/choices.ts';

interface Row {
  readonly shape: readonly [number, number];
  readonly sites: Sites;
  readonly chi?: number;
  readonly keep?: number;
  readonly out_modes: readonly number[];
  readonly in_modes: readonly number[];
  readonly max_bond_dims: readonly number[];
  readonly bond_dims?: readonly number[];
  readonly parameters?: number;
  readonly orders?: number;
  readonly multiply_adds?: number;
}

const table = JSON.parse(readFileSync(path.join(import.meta.dirname, '../fixtures/choices.json'), 'utf8')) as readonly Row[];

describe('the same arithmetic as the engine, by the table that the engine wrote', () => {
  test('the table is there', () => expect(table.length).toBeGreaterThan(300));

  test.each([...new Set(table.map(row => row.shape.join('×')))])('%s', shape => {
    for (const row of table.filter(each => each.shape.join('×') === shape)) {
      const [out, inFeatures] = row.shape;
      const modes = layerModes(out, inFeatures, row.sites);
      expect(modes).toEqual({ out: row.out_modes, in: row.in_modes });
      expect(maxBondDims(modes)).toEqual(row.max_bond_dims);
      const bonds = () => (row.chi === undefined ? bondDimsForKeep(modes, row.keep ?? 0, out * inFeatures) : bondDimsForChi(modes, row.chi));
      if (!row.bond_dims) {
        expect(bonds).toThrow(RangeError);
        continue;
      }
      expect(bonds()).toEqual(row.bond_dims);
      expect(parameterCount(modes, row.bond_dims)).toBe(row.parameters);
      expect(multiplyAdds(modes, row.bond_dims)).toBe(row.multiply_adds);
      expect(orderCount(modes, row.bond_dims)).toBe(row.orders);
    }
  });
});

test('the paper’s example: 216×216 with sites of 6×6 has 2·36χ + 36χ² parameters, 2χ² of them gauge', () => {
  const modes = layerModes(216, 216, 3);
  expect(modes).toEqual({ out: [6, 6, 6], in: [6, 6, 6] });
  for (const chi of [1, 5, 30]) {
    expect(parameterCount(modes, bondDimsForChi(modes, chi))).toBe(72 * chi + 34 * chi * chi);
  }
});

test('a size without enough factors is padded by little', () => {
  const modes = balancedModes(50257, 3);
  const padded = modes.reduce((product, mode) => product * mode, 1);
  expect(padded).toBeGreaterThanOrEqual(50257);
  expect(padded).toBeLessThan(50257 * 1.05);
});

describe('an estimate', () => {
  const wide = { out: 1536, in: 576, bytes: 2 * 1536 * 576 };
  const square = { out: 576, in: 576, bytes: 4 * 576 * 576 };

  test('adds up layers of different shape and dtype', () => {
    const together = estimate([wide, square, wide], 'low-rank', { chi: 64 });
    expect(together.parameters).toBe(64 * (2 * (1536 + 576 - 64) + (2 * 576 - 64)));
    expect(together.denseParameters).toBe(2 * 1536 * 576 + 576 * 576);
    expect(together.bytes).toBe(64 * (2 * 2 * (1536 + 576 - 64) + 4 * (2 * 576 - 64)) + 4 * (2 * 1536 + 576));
    expect(together.multiplyAdds).toBe(together.parameters);
    expect(together.keep).toBeCloseTo(together.parameters / together.denseParameters);
    expect(together.chi).toEqual([64, 64]);
    expect(together.lossless).toBe(0);
  });

  test('a share keeps at most that share of every layer', () => {
    const { keep, chi } = estimate([wide, square], 2, { keep: 0.3 });
    expect(keep).toBeLessThanOrEqual(0.3);
    expect(keep).toBeGreaterThan(0.27);
    expect(chi[0]).toBeLessThan(chi[1]);
  });

  test('above the exact rank nothing is lost and nothing saved', () => {
    const { lossless, keep } = estimate([square], 'low-rank', { chi: 10_000 });
    expect(lossless).toBe(1);
    expect(keep).toBe(1);
  });

  test('two interleaved sites compute more than the dense layer from χ = 33 on, three from 16 on (measured break-even: 32 and 16)', () => {
    const layer = { out: 4096, in: 4096, bytes: 1 };
    const slower = (sites: Sites, chi: number) => {
      const { multiplyAdds: adds, denseMultiplyAdds: dense } = estimate([layer], sites, { chi });
      return adds > dense;
    };
    expect([slower(2, 32), slower(2, 33)]).toEqual([false, true]);
    expect([slower(3, 15), slower(3, 16)]).toEqual([false, true]);
    expect(slower('low-rank', 4096)).toBe(false);
  });

  test('what is offered saves parameters and can be met', () => {
    expect(chiChoices([square], 'low-rank').map(({ target }) => target)).toEqual([512, 256, 128, 64, 32, 16, 8, 4].map(chi => ({ chi })));
    expect(keepChoices([square], 5).every(({ estimate: { keep } }) => keep > 0 && keep <= 0.9)).toBe(true);
    expect(keepChoices([{ out: 1, in: 2, bytes: 4 }], 2)).toEqual([]);
  });
});

describe('what a user types', () => {
  test.each([
    ['64', { chi: 64 }],
    [' 64 ', { chi: 64 }],
    ['χ 64', { chi: 64 }],
    ['chi=12', { chi: 12 }],
    ['30%', { keep: 0.3 }],
    ['12.5 %', { keep: 0.125 }],
    ['12,5%', { keep: 0.125 }],
    ['100%', { keep: 1 }],
  ])('%j is a target', (text, target) => expect(parseTarget(text)).toEqual(target));

  test.each([
    ['0', 'at least 1'],
    ['-3', 'at least 1'],
    ['abc', 'not a number'],
    ['1e3', 'not a number'],
    ['0.3', 'whole number'],
    ['0%', 'not a share'],
    ['-5%', 'not a share'],
    ['101%', 'not a share'],
    ['99999999999999999999', 'whole number'],
  ])('%j is refused with a reason that names it', (text, reason) => {
    const parsed = parseTarget(text);
    expect(parsed).toHaveProperty('problem', expect.stringContaining(reason));
    expect(parsed).toHaveProperty('problem', expect.stringContaining(text));
    expect(parsed).toHaveProperty('remedy', expect.stringContaining('30%'));
  });

  test('nothing is nothing', () => expect(parseTarget('  ')).toBeUndefined());
});
