import { readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, test } from 'vitest';
import { type Backend, backendOf, type FloatDtype, type Scheme, schemeSize, storedBytes } from '../../extension/plan/schemes.ts';

interface Row {
  readonly shape: readonly [number, number];
  readonly dtype: FloatDtype;
  readonly scheme: Scheme;
  readonly backend: Backend;
  readonly rank: number;
  readonly rank_bits: number;
  readonly bytes: number;
}

const table = JSON.parse(readFileSync(path.join(import.meta.dirname, '../fixtures/schemes.json'), 'utf8')) as readonly Row[];

describe('the same sizes as the engine, by the table that the engine wrote', () => {
  test('the table is there', () => expect(table.length).toBeGreaterThan(100));

  test.each([...new Set(table.map(row => row.scheme))])('%s', scheme => {
    for (const { shape, dtype, backend, rank, rank_bits, bytes } of table.filter(row => row.scheme === scheme)) {
      const layer = { out: shape[0], in: shape[1], dtype };
      expect(storedBytes(layer, scheme, backend, rank, rank_bits)).toBe(bytes);
    }
  });
});

test('sizes add up over layers', () => {
  const layers = [{ out: 576, in: 576, dtype: 'BF16' }, { out: 1536, in: 576, dtype: 'BF16' }] as const;
  const made = schemeSize(layers, 'nf4');
  expect(made.bytes).toBe(layers.reduce((sum, layer) => sum + storedBytes(layer, 'nf4', 'bitsandbytes'), 0));
  expect(made.denseBytes).toBe(2 * 576 * (576 + 1536));
  expect(made.bits).toBeCloseTo(4.5, 2);
});

test('sizes that bitsandbytes cannot compute with everywhere are packed', () => {
  expect(backendOf([{ out: 576, in: 576, dtype: 'BF16' }], 'nf4')).toBe('bitsandbytes');
  expect(backendOf([{ out: 576, in: 100, dtype: 'BF16' }], 'nf4')).toBe('packed');
  expect(backendOf([{ out: 50, in: 100, dtype: 'BF16' }], 'int8')).toBe('bitsandbytes');
  expect(backendOf([{ out: 576, in: 576, dtype: 'BF16' }], 'compensated-3')).toBe('packed');
});
