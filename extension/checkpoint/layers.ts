/** A module's tensors → the layer that they store: dense, as an MPO, or quantized. The same rules as modelmap.py. */
import path from 'node:path';
import { type Dtype, DTYPE_BITS, type TensorEntry } from 'safetensors-ts';
import type { Config } from './config.ts';
import { CheckpointError } from './errors.ts';
import type { ModuleForm, Role } from './modules.ts';
import type { Layer } from './types.ts';

export interface LayerContext {
  readonly folder: string;
  readonly config: Config | undefined;
  /** Shapes that bitsandbytes keeps in a tensor, by the name of that tensor. */
  readonly shapes: ReadonlyMap<string, readonly number[]>;
}

export interface Found {
  readonly layer: Layer;
  readonly tensors: readonly TensorEntry[];
  /** Length of the bias of a dense layer. */
  readonly biasLength: number | undefined;
}

const FLOATS: ReadonlySet<Dtype> = new Set<Dtype>(['F64', 'F32', 'F16', 'BF16']);
export const QUANT_STATE = '.quant_state.bitsandbytes__';

/** A module of one block: its form, and its tensors in the order of the form's roles. */
export interface Module {
  readonly form: ModuleForm;
  readonly entries: readonly TensorEntry[];
}

/**
 * The layer that a module is, if it is one. `prefix` is the block's path with its dot.
 * @throws CheckpointError when config.json does not describe a layer that is stored as an MPO
 */
export function layerOf(module: Module, prefix: string, context: LayerContext): Found | undefined {
  const { form, entries } = module;
  if (form.roles.some((role) => role === 'core' || role === 'coreHelper')) return mpoLayer(module, prefix, context);
  if (form.roles.includes('bits')) return packedLayer(module, prefix, context);
  const stored = form.noLayer ? undefined : storedWeight(module, context);
  if (!stored) return undefined;
  const { main, shape, scheme } = stored;
  const biases = entries.length > 1 ? withRole(module, 'bias') : [];
  const tensors = biases.length > 0 ? [...stored.tensors, ...biases] : stored.tensors;
  const weights = scheme === undefined ? main.parameters : shape.reduce((product, length) => product * length, 1);
  const layer: Layer = {
    name: prefix + form.path,
    group: form.group,
    shape,
    dtype: main.dtype,
    parameters: weights + sum(biases, (bias) => bias.parameters),
    bytes: sum(tensors, (tensor) => tensor.bytes),
    state: scheme === undefined ? 'dense' : 'quantized',
    ...(scheme !== undefined && { scheme }),
  };
  return { layer, tensors, biasLength: scheme === undefined ? biases[0]?.shape.at(-1) : undefined };
}

/** A layer whose matrix lies in the file as [in, out], as it is meant. */
export function transposed(layer: Layer): Layer {
  const [rows = 0, columns = 0] = layer.shape.slice(-2);
  return { ...layer, shape: [...layer.shape.slice(0, -2), columns, rows], transposed: true };
}

interface Stored {
  readonly main: TensorEntry;
  /** Of the dense weight. */
  readonly shape: readonly number[];
  readonly scheme: string | undefined;
  readonly tensors: readonly TensorEntry[];
}

function storedWeight(module: Module, context: LayerContext): Stored | undefined {
  const [weight] = withRole(module, 'weight');
  const helpers = module.entries.length > 1 ? withRole(module, 'helper') : [];
  if (weight) return plainOrScaled(weight, helpers, context);
  const [qweight] = withRole(module, 'qweight');
  const [packed] = withRole(module, 'packed');
  const [blocks] = withRole(module, 'blocks');
  const [scales] = withRole(module, 'scales');
  const [bare] = withRole(module, 'bare');
  if (qweight) return gptqOrAwq(qweight, helpers, context);
  if (packed?.shape.length === 2) {
    const [out = 0, columns = 0] = packed.shape;
    const inputs = Math.floor((columns * DTYPE_BITS[packed.dtype]) / bitsOf(context));
    return { main: packed, shape: [out, inputs], scheme: 'compressed-tensors', tensors: [packed, ...helpers] };
  }
  if (blocks?.shape.length === 4 && scales) {
    const [experts = 0, out = 0, groups = 0, bytes = 0] = blocks.shape;
    return { main: blocks, shape: [experts, out, groups * bytes * 2], scheme: 'mxfp4', tensors: [blocks, scales] };
  }
  if (bare && isStackOfExperts(bare) && FLOATS.has(bare.dtype) && !/(?:bias|scales|_scale)$/.test(bare.name)) {
    return { main: bare, shape: bare.shape, scheme: undefined, tensors: [bare] };
  }
  return undefined;
}

function plainOrScaled(weight: TensorEntry, helpers: readonly TensorEntry[], context: LayerContext): Stored | undefined {
  const tensors = helpers.length > 0 ? [weight, ...helpers] : [weight];
  const state = helpers.find((helper) => helper.name.includes(QUANT_STATE));
  if (state) {
    const scheme = state.name.slice(state.name.lastIndexOf('__') + 2);
    return { main: weight, shape: context.shapes.get(state.name) ?? weight.shape, scheme, tensors };
  }
  if (weight.shape.length !== 2 && !isStackOfExperts(weight)) return undefined;
  if (FLOATS.has(weight.dtype) && helpers.length === 0) return { main: weight, shape: weight.shape, scheme: undefined, tensors };
  return { main: weight, shape: weight.shape, scheme: schemeOf(weight.dtype), tensors };
}

/** AWQ packs along the output, GPTQ along the input; the scales have the output's length. */
function gptqOrAwq(qweight: TensorEntry, helpers: readonly TensorEntry[], context: LayerContext): Stored | undefined {
  const outputs = helpers.find((helper) => helper.name.endsWith('.scales'))?.shape.at(-1);
  const [rows, columns] = qweight.shape;
  if (outputs === undefined || rows === undefined || columns === undefined || qweight.shape.length !== 2) return undefined;
  const tensors = [qweight, ...helpers];
  if (columns !== outputs) return { main: qweight, shape: [outputs, rows], scheme: 'awq', tensors };
  const order = helpers.find((helper) => helper.name.endsWith('.g_idx'))?.shape[0];
  return { main: qweight, shape: [columns, order ?? Math.floor((rows * 32) / bitsOf(context))], scheme: 'gptq', tensors };
}

function packedLayer(module: Module, prefix: string, context: LayerContext): Found {
  const { form } = module;
  const name = prefix + form.path;
  const { out_features, in_features, scheme } = packedModule(name, context);
  const biases = withRole(module, 'bias');
  const tensors = [...withRole(module, 'bits'), ...biases];
  const layer: Layer = {
    name,
    group: form.group,
    shape: [out_features, in_features],
    dtype: tensors[0]?.dtype ?? 'U8',
    parameters: out_features * in_features + sum(biases, (bias) => bias.parameters),
    bytes: sum(tensors, (tensor) => tensor.bytes),
    state: 'quantized',
    scheme,
  };
  return { layer, tensors, biasLength: undefined };
}

interface PackedModule {
  readonly out_features: number;
  readonly in_features: number;
  /** `4-bit`, `3-bit + rank 8`, `rank 96, 4-bit`. */
  readonly scheme: string;
}

function packedModule(name: string, { folder, config }: LayerContext): PackedModule {
  const packed = config?.mpo?.packed;
  const info = packed && Object.hasOwn(packed, name) ? packed[name] : undefined;
  if (!info) {
    const file = path.join(folder, 'config.json');
    throw new CheckpointError(file, `${file} does not describe ${name}, which is stored in few bits.`, 'Copy the config.json that was written with these weights into the folder.');
  }
  const { bits, rank = 0, rank_bits = 0 } = info;
  const scheme = bits === 0 ? `rank ${rank}, ${rank_bits}-bit` : rank > 0 ? `${bits}-bit + rank ${rank}` : `${bits}-bit`;
  return { ...info, scheme };
}

/** The numbers of one core, and its scheme where it is quantized. */
function coreOf(module: Module, name: string, site: number, context: LayerContext): { readonly parameters: number; readonly scheme?: string } {
  const path = `${name}.cores.${site}`;
  const own = module.entries.filter((_, i) => module.form.sites[i] === site && ['core', 'coreHelper'].includes(module.form.roles[i] ?? ''));
  const weight = own.find((entry) => entry.name === `${path}.weight`);
  if (!weight) {
    const { out_features, in_features, scheme } = packedModule(path, context);
    return { parameters: out_features * in_features, scheme };
  }
  const stored = own.length > 1 ? plainOrScaled(weight, own.filter((entry) => entry !== weight), context) : undefined;
  if (!stored) return { parameters: weight.parameters };
  const parameters = stored.shape.reduce((product, length) => product * length, 1);
  return { parameters, ...(stored.scheme !== undefined && { scheme: stored.scheme }) };
}

function mpoLayer(module: Module, prefix: string, context: LayerContext): Found {
  const { folder, config } = context;
  const { form } = module;
  const name = prefix + form.path;
  const file = path.join(folder, 'config.json');
  const layers = config?.mpo?.layers;
  const info = layers && Object.hasOwn(layers, name) ? layers[name] : undefined;
  const cores = [...withRole(module, 'core'), ...withRole(module, 'coreHelper')];
  const isCore = (i: number): boolean => form.roles[i] === 'core' || form.roles[i] === 'coreHelper';
  const sites = [...new Set(form.sites.filter((_, i) => isCore(i)))].sort((a, b) => a - b);
  if (!info) {
    throw new CheckpointError(
      file,
      `${file} does not describe ${name}, which is stored as ${sites.length} cores.`,
      'Copy the config.json that was written with these weights into the folder.',
    );
  }
  if (sites.length !== info.bond_dims.length + 1 || sites.some((site, i) => site !== i)) {
    throw new CheckpointError(
      file,
      `${name} has the cores ${sites.join(', ')}, but ${file} says ${info.bond_dims.length + 1} of them.`,
      'Copy all files of the compressed model, config.json included, from one place.',
    );
  }
  const bias = withRole(module, 'bias').find((entry) => entry.name.endsWith('.bias'));
  const tensors = [...cores, ...withRole(module, 'order'), ...(bias ? [bias] : [])];
  const shape = [info.out_features, info.in_features];
  const made = sites.map((site) => coreOf(module, name, site, context));
  const coreParameters = sum(made, (core) => core.parameters);
  const schemes = [...new Set(made.flatMap(({ scheme }) => scheme ?? []))].sort();
  const layer: Layer = {
    name,
    group: form.group,
    shape,
    dtype: (cores[0] ?? module.entries[0])?.dtype ?? 'F32',
    parameters: coreParameters + (bias?.parameters ?? 0),
    bytes: sum(tensors, (tensor) => tensor.bytes),
    state: 'mpo',
    bondDims: info.bond_dims,
    keep: coreParameters / (info.out_features * info.in_features),
    ...(schemes.length > 0 && { scheme: schemes.join(', ') }),
  };
  return { layer, tensors, biasLength: undefined };
}

function withRole({ form, entries }: Module, role: Role): TensorEntry[] {
  return entries.filter((_, i) => form.roles[i] === role);
}

function isStackOfExperts(entry: TensorEntry): boolean {
  return entry.shape.length === 3 && Math.min(...entry.shape) > 1 && entry.name.includes('expert');
}

function schemeOf(dtype: Dtype): string {
  if (dtype.startsWith('F8')) return 'fp8';
  return dtype === 'I8' ? 'int8' : dtype === 'U8' ? 'uint8' : dtype.toLowerCase();
}

function bitsOf(context: LayerContext): number {
  return context.config?.bits ?? 4;
}

function sum<T>(things: readonly T[], value: (thing: T) => number): number {
  let total = 0;
  for (const thing of things) total += value(thing);
  return total;
}
