/**
 * How many bytes a weight takes in each scheme of fewer bits. The same arithmetic as engine/bondwise/stored_bits.py;
 * test/fixtures/schemes.json holds a table that both are checked against.
 */
import type { QuantizeRule } from '../protocol/types.ts';

export type Scheme = QuantizeRule['scheme'];

/** Of a safetensors header, as far as its weights can be quantized. */
export type FloatDtype = 'F32' | 'F16' | 'BF16';

/** What unpacks the weights: bitsandbytes, or the folder's own modeling_mpo.py. */
export type Backend = 'bitsandbytes' | 'packed';

/** A dense weight [out, in]. */
export interface FloatLayer {
  readonly out: number;
  readonly in: number;
  readonly dtype: FloatDtype;
}

export interface SchemeSize {
  readonly bytes: number;
  readonly denseBytes: number;
  /** For each number of these weights. */
  readonly bits: number;
  readonly backend: Backend;
}

export const BITSANDBYTES: readonly Scheme[] = ['int8', 'nf4', 'nf4-double'];
const GROUP = 64;
const NESTED = 256;
const NAMES: Readonly<Record<FloatDtype, string>> = { F32: 'float32', F16: 'float16', BF16: 'bfloat16' };

export function isFloatDtype(dtype: string): dtype is FloatDtype {
  return Object.hasOwn(NAMES, dtype);
}

export function itemBits(dtype: FloatDtype): number {
  return dtype === 'F32' ? 32 : 16;
}

/** Of one number of the matrix, or of the two thin ones. */
export function schemeBits(scheme: Scheme): number {
  if (scheme === 'int8') {
    return 8;
  }
  return scheme === 'nf4' || scheme === 'nf4-double' ? 4 : scheme === 'float16' ? 16 : Number(scheme.slice(scheme.lastIndexOf('-') + 1));
}

/** A matrix of codes, with a float16 scale for a row and 64 columns, levels, and the order of its columns. */
export function packedBytes(rows: number, columns: number, bits: number, ordered: boolean): number {
  const codes = bits === 8 ? rows * columns : bits * rows * groups(columns, 8);
  return codes + 2 * rows * groups(columns, GROUP) + 2 * 2 ** bits + (ordered ? columns * (columns <= 2 ** 15 ? 2 : 4) : 0);
}

/** Of the tensors in the place of a weight; with `nf4-double` give or take a few, as one number is kept as text. */
export function storedBytes({ out, in: inputs, dtype }: FloatLayer, scheme: Scheme, backend: Backend, rank = 0, rankBits = 0): number {
  const item = Math.min(itemBits(dtype), 16) / 8;
  if (scheme === 'float16') {
    return out * inputs * item;
  }
  if (backend === 'bitsandbytes') {
    return bitsandbytesBytes({ out, in: inputs, dtype }, scheme);
  }
  if (scheme === 'low-rank-16') {
    return rank * (out + inputs - rank) * item + 4 * out;
  }
  const thin = (bits: number) => bits === 16 ? 2 * rank * (out + inputs) : packedBytes(rank, out, bits, false) + packedBytes(rank, inputs, bits, false);
  if (scheme.startsWith('low-rank')) {
    return thin(schemeBits(scheme));
  }
  return packedBytes(out, inputs, schemeBits(scheme), scheme.startsWith('compensated')) + (rank > 0 ? thin(rankBits) : 0);
}

/** What a scheme makes of all the layers. */
export function schemeSize(layers: readonly FloatLayer[], scheme: Scheme): SchemeSize {
  const backend = backendOf(layers, scheme);
  let [bytes, denseBytes, numbers] = [0, 0, 0];
  for (const layer of layers) {
    bytes += storedBytes(layer, scheme, backend);
    denseBytes += (layer.out * layer.in * itemBits(layer.dtype)) / 8;
    numbers += layer.out * layer.in;
  }
  return { bytes, denseBytes, bits: (8 * bytes) / Math.max(numbers, 1), backend };
}

/** bitsandbytes, where it computes with all these sizes on every device; else the folder's own code: see quantize_choices.py. */
export function backendOf(layers: readonly FloatLayer[], scheme: Scheme): Backend {
  const unfit = scheme !== 'int8' && layers.some(layer => layer.out % 32 > 0 || layer.in % 64 > 0);
  return BITSANDBYTES.includes(scheme) && !unfit ? 'bitsandbytes' : 'packed';
}

function bitsandbytesBytes({ out, in: inputs, dtype }: FloatLayer, scheme: Scheme): number {
  const count = out * inputs;
  if (scheme === 'int8') {
    return count + 4 * out + 1;
  }
  const scales = groups(count, GROUP);
  // What the file holds is Python's JSON of this: a blank behind each colon and comma.
  const state = `{"quant_type": "nf4", "blocksize": ${GROUP}, "dtype": "${NAMES[dtype]}", "shape": [${out}, ${inputs}]`;
  if (scheme === 'nf4') {
    return groups(count, 2) + 4 * scales + 4 * 16 + state.length + 1;
  }
  const nested = `, "nested_blocksize": ${NESTED}, "nested_dtype": "float32", "nested_offset": 0.05131392180919647}`;
  return groups(count, 2) + scales + 4 * groups(scales, NESTED) + 4 * (16 + 256) + state.length + nested.length;
}

function groups(count: number, size: number): number {
  return Math.ceil(count / size);
}
