import { describe, expect, test } from 'vitest';
import type { Layer, Model } from '../../extension/checkpoint/index.ts';
import { isRelated, mapChoices, mapModel } from '../../extension/panels/mapData.ts';
import type { LayerSensitivity } from '../../extension/profile/levels.ts';
import type { Lineage, MapLayer, MapModel } from '../../extension/protocol/types.ts';
import { columnAt } from '../../webview/ui/geometry.ts';
import { borrow, coloursOf, firstChoice } from '../../webview/map/colours.ts';
import { changeText, factsOf, lineOf } from '../../webview/map/facts.ts';
import { mapMenu } from '../../webview/map/menu.ts';
import { bitsOf, geometryOf, isOriginal, keptOf, pairOf, placeOf, placesOf, scaleOf } from '../../webview/map/pair.ts';

function layer(block: number, path: string, shape: readonly [number, number], more: Partial<Layer> = {}): Layer {
  const parameters = shape[0] * shape[1];
  return { name: `model.layers.${block}.${path}`, group: path.startsWith('self') ? 'attention' : 'mlp', shape, dtype: 'BF16', parameters, bytes: 2 * parameters, state: 'dense', ...more };
}

function model(name: string, layers: (block: number) => readonly Layer[], lineage?: Lineage): Model {
  const blocks = [0, 1].map(index => ({ index, name: `model.layers.${index}`, layers: layers(index), other: [{ name: `model.layers.${index}.norm.weight`, dtype: 'BF16' as const, shape: [8], parameters: 8, bytes: 16 }], parameters: 0, bytes: 0 }));
  const embedding = { name: 'embed.weight', dtype: 'BF16' as const, shape: [100, 8], parameters: 800, bytes: 1600 };
  return {
    folder: `/models/${name}`,
    name,
    architecture: 'LlamaForCausalLM',
    modelType: 'llama',
    parameters: 1000,
    bytes: 2000,
    container: 'model.layers',
    blocks,
    other: [{ name: 'embedding', tensors: [embedding], parameters: 800, bytes: 1600 }],
    dtypes: [],
    needsCode: false,
    problems: [],
    ...(lineage && { lineage }),
  };
}

const DENSE = (block: number) => [layer(block, 'self_attn.q_proj', [8, 8]), layer(block, 'mlp.up_proj', [24, 8])];
/** The MLP is 30% of what it was: 57.6 of 192 numbers, as cores of 58. */
const SMALL = (block: number) => [
  layer(block, 'self_attn.q_proj', [8, 8]),
  layer(block, 'mlp.up_proj', [24, 8], { state: 'mpo', parameters: 58 + 24, bytes: 2 * 82, bondDims: [2], keep: 58 / 192 }),
];

/** As it is in a file: what is not asked here is left out. */
function lineage(parts: Partial<Record<keyof Lineage, unknown>>): Lineage {
  return { version: 1, engine: '0', created: '', base: { path: '../original', name: 'original', fingerprint: '' }, ...parts } as Lineage;
}

const TENSORIZED = { layers: [0, 1].map(block => ({ name: `model.layers.${block}.mlp.up_proj`, relative_error: 0.25 })) };
const sensitivity = (rise: number): LayerSensitivity => ({ rise, chi: 4, keep: 0.3, source: 'predicted', level: 'low' });
const profile = { file: '/w/original.sensitivity.json', layers: new Map([['model.layers.0.mlp.up_proj', sensitivity(0.5)], ['model.layers.1.mlp.up_proj', sensitivity(0.001)]]) };

const original = mapModel(model('original', DENSE), profile);
const small = mapModel(model('small', SMALL, lineage({ result: TENSORIZED })), undefined);

function at({ layers }: MapModel, index: number): MapLayer {
  const found = layers[index];
  if (!found) {
    throw new Error(`there is no layer ${index}`);
  }
  return found;
}

describe('what the map is told of a model', () => {
  test('has every layer with its place, its size now and its size in the original', () => {
    expect(small.layers.map(({ block, column, original_parameters, parameters }) => [block, column, original_parameters, parameters])).toEqual([
      [0, 'self_attn.q_proj', 64, 64],
      [0, 'mlp.up_proj', 192 + 24, 82],
      [1, 'self_attn.q_proj', 64, 64],
      [1, 'mlp.up_proj', 192 + 24, 82],
    ]);
    expect(small.outside).toEqual([
      { name: 'embedding', parameters: 800, bytes: 1600, tensors: 1 },
      { name: 'blocks', parameters: 16, bytes: 32, tensors: 2 },
    ]);
    expect([original.profile, small.profile, small.base, small.base_path]).toEqual(['original.sensitivity.json', null, 'original', '/models/original']);
  });

  const changed = (parts: Partial<Record<keyof Lineage, unknown>>) => mapModel(model('m', SMALL, lineage(parts)), undefined).layers.slice(0, 2).map(({ changed: steps, change, change_before }) => [steps, change, change_before]);
  const quantized = (names: readonly string[]) => ({ created: '2026-02', source: { path: '../small', name: 'small', fingerprint: '' }, result: { layers: names.map(name => ({ name: `model.layers.0.${name}`, relative_error: 0.125 })) } });

  test('tells a change only where it was measured after the last step', () => {
    expect(original.layers[0]?.changed).toBeNull();
    expect(changed({ result: TENSORIZED })).toEqual([[[], 0, null], [['tensorized'], 0.25, null]]);
    expect(changed({ quantization: quantized(['self_attn.q_proj']) })).toEqual([[['quantized'], 0.125, null], [[], 0, null]]);
    expect(changed({ quantization: quantized(['self_attn.q_proj']), healing: [{ created: '2026-03', request: {} }] })).toEqual([[['quantized', 'healed'], null, 0.125], [[], 0, null]]);
    expect(changed({ result: TENSORIZED, healing: [{ created: '2026-01', request: { train: ['norms'] } }] })).toEqual([[[], 0, null], [['tensorized', 'healed'], null, 0.25]]);
    expect(changed({ result: TENSORIZED, quantization: quantized(['mlp.up_proj.cores.0']) })).toEqual([[[], 0, null], [['tensorized', 'quantized'], null, 0.25]]);
  });

  test('does not call a layer unchanged that a healing may have trained', () => {
    expect(changed({ result: TENSORIZED, healing: [{ created: '2026-01', request: { train: ['*.q_proj'] } }] })[0]).toEqual([null, null, null]);
  });

  test('offers related models first', () => {
    const [from, made, other] = [model('original', DENSE), model('small', SMALL, lineage({ result: TENSORIZED })), model('another', DENSE)];
    expect(isRelated(from, made) && isRelated(made, from)).toBe(true);
    expect(isRelated(from, other)).toBe(false);
    expect(mapChoices(from, [other, made, from], folder => folder).map(({ name }) => name)).toEqual(['small', 'another']);
  });
});

describe('two models side by side', () => {
  const pair = pairOf(small, original);

  test('have the same columns, and the places of both', () => {
    expect(pair.sides.map(({ grid }) => grid.columns.map(({ label }) => label))).toEqual([['q', 'up'], ['q', 'up']]);
    expect(placesOf(pair).map(({ layer: one, of }) => [placeOf(one), ...of.map(own => own?.parameters)])).toEqual([
      ['0 self_attn.q_proj', 64, 64],
      ['0 mlp.up_proj', 82, 192],
      ['1 self_attn.q_proj', 64, 64],
      ['1 mlp.up_proj', 82, 192],
    ]);
  });

  test('leave a place empty where one of them has no layer', () => {
    const fewer: MapModel = { ...small, layers: small.layers.filter(({ block, column }) => block === 0 || column !== 'mlp.up_proj') };
    expect(placesOf(pairOf(original, fewer)).map(({ of }) => of.map(Boolean))).toEqual([[true, true], [true, true], [true, true], [true, false]]);
  });

  test('are as wide as their parameters, and wider than the window where the smallest would not be seen', () => {
    const geometry = geometryOf(pair, { width: 560, height: 1000 });
    expect(columnAt(geometry, 0)).toEqual({ left: 0, width: 560 * (64 / 280) - 1 });
    expect(scaleOf(pair, geometry)).toBeCloseTo(2);
    const tiny: MapModel = { ...original, layers: original.layers.map(one => (one.column === 'mlp.up_proj' ? { ...one, original_parameters: 64_000 } : one)) };
    const wide = geometryOf(pairOf(tiny, null), { width: 560, height: 1000 });
    expect(wide.edges.at(-1)).toBeGreaterThan(560);
    expect(columnAt(wide, 0).width).toBeCloseTo(4);
  });

  test('are as low as lets all be seen at once, if that is not too low', () => {
    // Two blocks, an embedding of 800 / 280 rows, norms of one.
    const height = (room: number) => geometryOf(pair, { width: 560, height: room }).rowHeight;
    expect([height(1000), height(100), height(20)]).toEqual([20, 11, 8]);
  });

  test('lend sensitivities to the one that has no profile', () => {
    const lent = borrow(pair);
    expect(lent.get('model.layers.0.mlp.up_proj')?.rise).toBe(0.5);
    expect(borrow(pairOf(original, null)).size).toBe(0);
    const colours = coloursOf('sensitivity', pair, true);
    expect(colours.notes[0]).toBe('small has no profile of its own: its layers have the colours of original.');
    expect(small.layers.map(one => colours.of(one) !== undefined)).toEqual([false, true, false, true]);
  });

  test('are coloured by change with the original as the reference', () => {
    expect(pair.sides.map(side => isOriginal(pair, side))).toEqual([false, true]);
    const colours = coloursOf('change', pair, true);
    expect(original.layers.every(one => colours.of(one) !== undefined)).toBe(true);
    expect(colours.notes).toEqual([]);
    expect(colours.marks.at(-1)?.text).toBe('50%');
    expect(colours.of(at(small, 0))).toEqual(colours.of(at(original, 1)));
    expect(colours.of(at(small, 1))).not.toEqual(colours.of(at(small, 0)));
  });
});

describe('colours and words of one model', () => {
  test('start with what tells most', () => {
    expect(firstChoice(pairOf(original, null))).toBe('sensitivity');
    expect(firstChoice(pairOf(small, null))).toBe('change');
    expect(firstChoice(pairOf({ ...original, layers: original.layers.map(one => ({ ...one, sensitivity: null })) }, null))).toBe('precision');
  });

  test('say what is not known, and what to do', () => {
    const bare = pairOf({ ...original, layers: original.layers.map(one => ({ ...one, sensitivity: null })) }, null);
    expect(coloursOf('sensitivity', bare, true)).toMatchObject({ marks: [], notes: ['There is no sensitivity profile of original in this workspace. “Profile Sensitivity…” makes one.'] });
    expect(coloursOf('change', bare, true).notes[0]).toMatch(/^Nothing tells what original was made from/);
  });

  test('tell precisions apart by what is stored, with its bits', () => {
    const few = { ...at(small, 0), state: 'quantized' as const, scheme: 'nf4', bytes: 36 };
    const { keys } = coloursOf('precision', pairOf({ ...small, layers: [few, ...small.layers.slice(1)] }, null), true);
    expect(keys.map(({ text }) => text)).toEqual(['cores in BF16: 16 bits', 'BF16: 16 bits', 'nf4: 4.5 bits']);
    expect([bitsOf(few), keptOf(few), keptOf(at(small, 1))]).toEqual([4.5, 1, 82 / 216]);
  });

  test('are said in a line', () => {
    const up = at(small, 1);
    expect(lineOf(up, factsOf(up, undefined))).toBe('Block 0, mlp.up_proj; Shape 24 × 8; Bond dimensions χ 2; Parameters 82 of 216, 38% kept; Stored as cores in BF16, 16 bits a number, 164 B; Sensitivity not profiled; Change tensorized: relative error 25%');
    expect(changeText({ changed: ['tensorized', 'healed'], change: null, change_before: 0.25 })).toBe('tensorized, healed: relative error 25% before the last step, not known after it');
  });

  test('offer what the tree offers for such layers', () => {
    const labels = (...layers: Parameters<typeof mapMenu>[0][number][]) => mapMenu(layers, () => undefined).map(({ label }) => label);
    expect(labels(at(original, 0))).toEqual(['Reveal in Tree', 'Show Sensitivity', 'Show Tensors', 'Tensorize…', 'Profile Sensitivity…', 'Quantize…', 'Copy Name']);
    expect(labels(at(small, 1), at(small, 3))).toEqual(['Reveal in Tree', 'Show Sensitivity', 'Quantize…', 'Copy Names']);
    expect(labels({ state: 'quantized', shape: [8, 8] })).toEqual(['Reveal in Tree', 'Show Sensitivity', 'Show Tensors', 'Copy Name']);
  });
});
