/** From a model, its lineage and its profile to what the model map draws. */
import path from 'node:path';
import type { Block, Layer, Model } from '../checkpoint/index.ts';
import type { LayerSensitivity } from '../profile/levels.ts';
import type { Lineage, MapChoice, MapLayer, MapModel, MapOutside } from '../protocol/types.ts';

/** What a profile says, and the file that says so. */
export interface Sensitivities {
  readonly file: string;
  readonly layers: ReadonlyMap<string, LayerSensitivity>;
}

type Change = Pick<MapLayer, 'changed' | 'change' | 'change_before'>;

export function mapModel(model: Model, found: Sensitivities | undefined): MapModel {
  const { name, folder, parameters, bytes, lineage } = model;
  const changeOf = changes(lineage);
  return {
    name,
    path: folder,
    parameters,
    bytes,
    base: lineage?.base.name ?? null,
    base_path: lineage ? path.resolve(folder, lineage.base.path) : null,
    healed: (lineage?.healing?.length ?? 0) > 0,
    profile: found ? path.basename(found.file) : null,
    layers: model.blocks.flatMap(block => block.layers.map(layer => mapLayer(layer, block, found?.layers.get(layer.name), changeOf(layer)))),
    outside: outsideOf(model),
  };
}

/** The other models, those first that have the same origin. @param shorten of a folder, for the hint. */
export function mapChoices(model: Model, others: readonly Model[], shorten: (folder: string) => string): MapChoice[] {
  const near = others.filter(other => other.folder !== model.folder).map(other => ({ other, related: isRelated(model, other) }));
  return near.toSorted((a, b) => Number(b.related) - Number(a.related)).map(({ other }) => ({ name: other.name, path: other.folder, hint: shorten(other.folder) }));
}

/** One was made from the other, or both from a third. */
export function isRelated(a: Model, b: Model): boolean {
  const [from, other] = [originsOf(a), originsOf(b)];
  return [...from].some(origin => other.has(origin));
}

function originsOf({ folder, lineage }: Model): ReadonlySet<string> {
  const sources = [lineage?.base.path, lineage?.quantization?.source.path];
  return new Set([folder, ...sources.flatMap(source => (source === undefined ? [] : [path.resolve(folder, source)]))]);
}

function mapLayer(layer: Layer, block: Block, sensitivity: LayerSensitivity | undefined, change: Change): MapLayer {
  const weight = layer.shape.reduce((product, length) => product * length, 1);
  const { name, group, shape, dtype, parameters, bytes, state } = layer;
  // A bias is the same before and after.
  const kept = layer.keep === undefined ? weight : Math.round(layer.keep * weight);
  return {
    name,
    block: block.index,
    column: name.slice(block.name.length + 1),
    group,
    shape: [...shape],
    dtype,
    parameters,
    original_parameters: weight + Math.max(0, parameters - kept),
    bytes,
    state,
    scheme: layer.scheme ?? null,
    bond_dims: [...(layer.bondDims ?? [])],
    sensitivity: sensitivity ? { rise: sensitivity.rise, error: sensitivity.error ?? 0, keep: sensitivity.keep, measured: sensitivity.source === 'measured' } : null,
    ...change,
  };
}

/** What the lineage tells of a layer: which steps changed it, and by how much as far as that was measured. */
function changes(lineage: Lineage | undefined): (layer: Layer) => Change {
  if (!lineage) {
    return () => ({ changed: null, change: null, change_before: null });
  }
  const tensorized = new Map(lineage.result?.layers.map(layer => [layer.name, layer.relative_error]));
  const quantized = new Map(lineage.quantization?.result.layers.map(layer => [layer.name, layer.relative_error]));
  const cores = new Set([...quantized.keys()].flatMap(name => /^(.+)\.cores\.\d+$/.exec(name)?.[1] ?? []));
  const healing = lineage.healing ?? [];
  const quantizedAt = lineage.quantization?.created ?? '';
  const after = healing.filter(({ created }) => quantizedAt !== '' && created > quantizedAt);
  const before = healing.filter(one => !after.includes(one));
  // Names, globs and expressions: which layers they mean is the engine's to say.
  const trainedBesides = healing.some(({ request: { train } }) => Array.isArray(train) && train.some(what => what !== 'norms'));
  return ({ name }) => {
    const [low, few] = [tensorized.get(name), quantized.get(name)];
    if (low === undefined && trainedBesides) {
      return { changed: null, change: null, change_before: null };
    }
    const isFew = few !== undefined || cores.has(name);
    const changed: ('tensorized' | 'healed' | 'quantized')[] = [
      ...(low === undefined ? [] : (['tensorized'] as const)),
      ...(low !== undefined && before.length > 0 ? (['healed'] as const) : []),
      ...(isFew ? (['quantized'] as const) : []),
      // What was quantized is healed by thin matrices beside it.
      ...(isFew && after.length > 0 ? (['healed'] as const) : []),
    ];
    if (changed.length > 1) {
      return { changed, change: null, change_before: low ?? few ?? null };
    }
    return { changed, change: changed.length === 0 ? 0 : (low ?? few ?? null), change_before: null };
  };
}

function outsideOf({ other, blocks }: Model): MapOutside[] {
  const inBlocks = blocks.flatMap(block => block.other);
  const sum = (key: 'parameters' | 'bytes') => inBlocks.reduce((total, tensor) => total + tensor[key], 0);
  return [
    ...other.map(({ name, parameters, bytes, tensors }) => ({ name, parameters, bytes, tensors: tensors.length })),
    ...(inBlocks.length > 0 ? [{ name: 'blocks' as const, parameters: sum('parameters'), bytes: sum('bytes'), tensors: inBlocks.length }] : []),
  ];
}
