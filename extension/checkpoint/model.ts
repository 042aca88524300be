/** A folder on disk → Model → Block → Layer, from headers, names and config.json alone: no Python, no weights. */
import path from 'node:path';
import { openCheckpoint, Pace, type TensorEntry } from 'safetensors-ts';
import { t } from '../l10n/text.ts';
import type { ErrorInfo } from '../protocol/types.ts';
import { readConfig, readLineage } from './config.ts';
import { requireReadable } from './folder.ts';
import { type LayerContext, layerOf, transposed } from './layers.ts';
import { type BlockForm, formOf, hasForm } from './modules.ts';
import { otherGroup } from './names.ts';
import { sortByName } from './sort.ts';
import { readShapes, survey, type Survey } from './survey.ts';
import type { Block, Layer, Model, OtherGroup, Tensor } from './types.ts';

const OTHER_GROUPS: readonly OtherGroup['name'][] = ['embedding', 'norm', 'head', 'other'];

/**
 * Opens the model in a folder. A folder without config.json is shown by its names alone, with architecture null.
 * @throws CheckpointError, SafetensorsError: see `problemOf`
 */
export async function openModel(folder: string, signal?: AbortSignal): Promise<Model> {
  const root = path.resolve(folder);
  await requireReadable(root);
  const [checkpoint, config, lineage] = await Promise.all([openCheckpoint(root, signal), readConfig(root), readLineage(root)]);
  const pace = new Pace();
  const found = await survey(checkpoint, pace, signal);
  const context = { folder: root, config, shapes: await readShapes(found.states, signal) };
  const blocks = await makeBlocks(found, context, pace, signal);
  const other = await groupOthers(found.outside, pace, signal);
  const problems: ErrorInfo[] = checkpoint.problems.map(({ message, remedy }) => ({ message, remedy }));
  if (!config) {
    const remedy = t('It can be looked at, not compressed: copy the config.json of the model into the folder.');
    problems.push({ message: t('{0} has no config.json.', root), remedy });
  }
  return {
    folder: root,
    name: path.basename(root),
    architecture: config?.architecture ?? null,
    modelType: config?.modelType ?? null,
    parameters: total([...blocks, ...other], 'parameters'),
    bytes: checkpoint.totalBytes,
    container: found.container,
    blocks,
    other,
    dtypes: found.dtypes,
    needsCode: config?.needsCode ?? false,
    problems,
    ...(lineage && { lineage }),
  };
}

async function makeBlocks(found: Survey, context: LayerContext, pace: Pace, signal: AbortSignal | undefined): Promise<readonly Block[]> {
  const blocks: Block[] = [];
  const biases = new Map<Layer, number>();
  let form: BlockForm = { names: [], modules: [] };
  for (const [index, entries] of [...found.blocks].sort(([a], [b]) => a - b)) {
    const prefix = `${found.container ?? ''}.${index}.`;
    if (!hasForm(entries, prefix, form)) form = await formOf(entries, prefix, pace, signal);
    const layers: Layer[] = [];
    const rest: Tensor[] = [];
    let looks = 0;
    for (const module of form.modules) {
      if ((++looks & 63) === 0 && pace.due()) await pace.rest(signal);
      const own: TensorEntry[] = [];
      for (const position of module.positions) {
        const entry = entries[position];
        if (entry) own.push(entry);
      }
      const made = layerOf({ form: module, entries: own }, prefix, context);
      if (made) layers.push(made.layer);
      if (made?.biasLength !== undefined) biases.set(made.layer, made.biasLength);
      if (own.length > (made?.tensors.length ?? 0)) for (const entry of own) if (!made?.tensors.includes(entry)) rest.push(tensor(entry));
    }
    const others = await sortByName(rest, pace, signal);
    const parameters = total(layers, 'parameters') + total(others, 'parameters');
    const bytes = total(layers, 'bytes') + total(others, 'bytes');
    blocks.push({ index, name: prefix.slice(0, -1), layers, other: others, parameters, bytes });
  }
  return orient(blocks, biases);
}

/**
 * Shows [out, in] where the file holds [in, out] (GPT-2's Conv1D): told by a bias as long as the second axis and not the first; a square
 * layer, where the bias cannot tell, goes with the others of the model.
 */
function orient(blocks: readonly Block[], biases: ReadonlyMap<Layer, number>): readonly Block[] {
  const told = new Map<Layer, boolean>();
  for (const [layer, length] of biases) {
    const [rows, columns] = layer.shape.slice(-2);
    if (rows !== columns) told.set(layer, length === columns);
  }
  const votes = [...told.values()];
  if (!votes.includes(true)) return blocks;
  const all = votes.every(Boolean);
  const turned = (layer: Layer): boolean => told.get(layer) ?? (all && biases.has(layer));
  return blocks.map((block) => ({ ...block, layers: block.layers.map((layer) => (turned(layer) ? transposed(layer) : layer)) }));
}

async function groupOthers(entries: readonly TensorEntry[], pace: Pace, signal: AbortSignal | undefined): Promise<OtherGroup[]> {
  const groups = new Map<OtherGroup['name'], Tensor[]>(OTHER_GROUPS.map((name) => [name, []]));
  let looks = 0;
  for (const entry of await sortByName(entries, pace, signal)) {
    groups.get(otherGroup(entry.name.replace(/\.(?:weight|bias)$/, '')))?.push(tensor(entry));
    if ((++looks & 63) === 0 && pace.due()) await pace.rest(signal);
  }
  return [...groups]
    .filter(([, tensors]) => tensors.length > 0)
    .map(([name, tensors]) => ({ name, tensors, parameters: total(tensors, 'parameters'), bytes: total(tensors, 'bytes') }));
}

function tensor({ name, dtype, shape, parameters, bytes }: TensorEntry): Tensor {
  return { name, dtype, shape, parameters, bytes };
}

function total<K extends 'parameters' | 'bytes'>(things: readonly Readonly<Record<K, number>>[], key: K): number {
  let sum = 0;
  for (const thing of things) sum += thing[key];
  return sum;
}
