import { describe, expect, test } from 'vitest';
import type { Block, Layer } from '../../extension/checkpoint/index.ts';
import { matcher, SelectorError, selectLayers } from '../../extension/plan/selectors.ts';
import fnmatch from './fixtures/fnmatch.json' with { type: 'json' };

function layer(name: string): Layer {
  return { name, group: 'mlp', shape: [4, 4], dtype: 'F32', parameters: 16, bytes: 64, state: 'dense' };
}

function model(blocks: number): { readonly blocks: readonly Block[] } {
  const parts = ['self_attn.q_proj', 'self_attn.k_proj', 'mlp.gate_proj', 'mlp.down_proj'];
  return {
    blocks: Array.from({ length: blocks }, (_, index) => {
      const name = `model.layers.${index}`;
      return { index, name, layers: parts.map((part) => layer(`${name}.${part}`)), other: [], parameters: 64, bytes: 256 };
    }),
  };
}

function names(patterns: readonly string[], exclude?: readonly string[]): string[] {
  return selectLayers(model(12), patterns, exclude).map(({ name }) => name.replace('model.layers.', ''));
}

function failure(patterns: readonly string[], exclude?: readonly string[]): SelectorError {
  try {
    names(patterns, exclude);
  } catch (error) {
    if (error instanceof SelectorError) return error;
  }
  throw new Error('expected a SelectorError');
}

describe('globs match what Python matches', () => {
  test.each(fnmatch.cases)('$pattern', ({ pattern, matching }: { pattern: string; matching: readonly string[] }) => {
    const matches = matcher(pattern);
    // An exact name is itself, whatever it would mean as a glob: selectors have that before globs.
    expect(fnmatch.names.filter((name) => name !== pattern && matches(name))).toEqual(matching.filter((name) => name !== pattern));
  });
});

describe('selectors', () => {
  test('take an exact name, a glob and an expression for the whole name', () => {
    expect(names(['model.layers.3.mlp.gate_proj'])).toEqual(['3.mlp.gate_proj']);
    expect(names(['*.1?.mlp.*'])).toEqual(['10.mlp.gate_proj', '10.mlp.down_proj', '11.mlp.gate_proj', '11.mlp.down_proj']);
    expect(names(['*.layers.[2-3].*.q_proj'])).toEqual(['2.self_attn.q_proj', '3.self_attn.q_proj']);
    expect(names(['re:.*layers\\.(1|10)\\..*(q|k)_proj'])).toEqual(['1.self_attn.q_proj', '1.self_attn.k_proj', '10.self_attn.q_proj', '10.self_attn.k_proj']);
  });

  test('give each layer once, in the order of the model', () => {
    expect(names(['*.1.mlp.*', '*.0.mlp.gate_proj', '*.1.*.gate_proj'])).toEqual(['0.mlp.gate_proj', '1.mlp.gate_proj', '1.mlp.down_proj']);
  });

  test('leave out what is excluded', () => {
    expect(names(['*.0.*'], ['*.mlp.*', '*k_proj'])).toEqual(['0.self_attn.q_proj']);
    expect(failure(['*.0.mlp.*'], ['*.mlp.*']).message).toContain('all 2 layers');
  });

  test('do not match part of a name', () => {
    expect(() => names(['mlp'])).toThrow(SelectorError);
    expect(() => names(['re:mlp'])).toThrow(SelectorError);
    expect(() => names(['re:a)|(.*'])).toThrow('not a regular expression');
  });

  test('that match nothing are an error with the nearest names', () => {
    expect(failure(['model.layers.3.mlp.gate_prj']).message).toContain('nearest are model.layers.3.mlp.gate_proj');
    expect(failure(['*.gateproj']).message).toContain('.mlp.gate_proj');
    expect(failure(['*.mlp.*', '*.wq']).pattern).toBe('*.wq');
    expect(failure(['*.mlp.*'], ['*.router']).pattern).toBe('*.router');
    expect(() => selectLayers({ blocks: [] }, ['*'])).toThrow('no layers in blocks');
  });

  test('with many stars end in time', () => {
    expect(matcher(`${'*a'.repeat(40)}b`)('a'.repeat(400))).toBe(false);
  });
});
