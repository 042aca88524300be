/** One pass over all tensors: which block each belongs to, which hold shapes, how many bytes each dtype has. */
import { type Checkpoint, type Dtype, type Pace, readTensorBytes, type TensorEntry } from 'safetensors-ts';
import { QUANT_STATE } from './layers.ts';
import { numbered } from './names.ts';
import type { Model } from './types.ts';

export interface Survey {
  readonly container: string | null;
  /** The tensors of each block, by its number. */
  readonly blocks: ReadonlyMap<number, readonly TensorEntry[]>;
  readonly outside: readonly TensorEntry[];
  readonly dtypes: Model['dtypes'];
  /** bitsandbytes' descriptions of 4-bit weights. */
  readonly states: readonly TensorEntry[];
}

interface Container {
  readonly name: string;
  readonly prefix: string;
  parameters: number;
  readonly blocks: Map<number, TensorEntry[]>;
}

/** bitsandbytes' description of a 4-bit weight is JSON of some hundred bytes. */
const MAX_STATE_BYTES = 1 << 16;
const READS_AT_ONCE = 16;
const DOT = 0x2e;
const ZERO = 0x30;

export async function survey(checkpoint: Checkpoint, pace: Pace, signal?: AbortSignal): Promise<Survey> {
  const containers = new Map<string, Container>();
  const sums = new Map<Dtype, { readonly dtype: Dtype; parameters: number; bytes: number }>();
  const outside: TensorEntry[] = [];
  const states: TensorEntry[] = [];
  let last: Container | undefined;
  let looks = 0;
  for (const file of checkpoint.files) {
    for (const entry of file.tensors.values()) {
      if ((++looks & 255) === 0 && pace.due()) await pace.rest(signal);
      const { dtype, name, parameters, bytes } = entry;
      const sum = sums.get(dtype);
      if (sum) {
        sum.parameters += parameters;
        sum.bytes += bytes;
      } else sums.set(dtype, { dtype, parameters, bytes });
      if (dtype === 'U8' && bytes <= MAX_STATE_BYTES && name.includes(QUANT_STATE)) states.push(entry);
      let index = last && numberAfter(name, last.prefix);
      if (index === undefined) {
        const place = numbered(name);
        if (!place) {
          outside.push(entry);
          continue;
        }
        last = containers.get(place.container) ?? { name: place.container, prefix: `${place.container}.`, parameters: 0, blocks: new Map() };
        containers.set(place.container, last);
        index = place.index;
      }
      if (!last) continue;
      last.parameters += parameters;
      const block = last.blocks.get(index);
      if (block) block.push(entry);
      else last.blocks.set(index, [entry]);
    }
  }
  const largest = mostParameters(containers.values());
  for (const container of containers.values()) {
    if (container !== largest) for (const entries of container.blocks.values()) for (const entry of entries) outside.push(entry);
  }
  const dtypes = [...sums.values()].sort((a, b) => b.bytes - a.bytes);
  return { container: largest?.name ?? null, blocks: largest?.blocks ?? new Map<number, TensorEntry[]>(), outside, dtypes, states };
}

/** The shapes of 4-bit weights, which bitsandbytes stores flattened: a few hundred bytes each, the only data that is read. */
export async function readShapes(states: readonly TensorEntry[], signal?: AbortSignal): Promise<Map<string, readonly number[]>> {
  const shapes = new Map<string, readonly number[]>();
  const read = async (entry: TensorEntry): Promise<void> => {
    const shape = parseShape(await readTensorBytes(entry));
    if (shape) shapes.set(entry.name, shape);
  };
  for (let start = 0; start < states.length; start += READS_AT_ONCE) {
    await Promise.all(states.slice(start, start + READS_AT_ONCE).map(read));
    signal?.throwIfAborted();
  }
  return shapes;
}

/** The number between `prefix` and the next dot, for the many names that share a prefix; undefined where `name` is not of that form. */
function numberAfter(name: string, prefix: string): number | undefined {
  if (!name.startsWith(prefix)) return undefined;
  let index = 0;
  let at = prefix.length;
  for (let digit = name.charCodeAt(at) - ZERO; digit >= 0 && digit <= 9; digit = name.charCodeAt(++at) - ZERO) index = index * 10 + digit;
  return at > prefix.length && name.charCodeAt(at) === DOT ? index : undefined;
}

/** The blocks are the outermost numbered container with the most parameters; of equals the last by name, as in modelmap.py. */
function mostParameters(containers: Iterable<Container>): Container | undefined {
  let largest: Container | undefined;
  for (const container of containers) {
    const more = container.parameters - (largest?.parameters ?? -1);
    if (more > 0 || (more === 0 && container.name > (largest?.name ?? ''))) largest = container;
  }
  return largest;
}

function parseShape(bytes: Buffer): readonly number[] | undefined {
  try {
    const value: unknown = JSON.parse(bytes.toString('utf8'));
    const shape: unknown = typeof value === 'object' && value !== null && 'shape' in value ? value.shape : undefined;
    if (!Array.isArray(shape)) return undefined;
    const lengths = shape.filter((length): length is number => Number.isSafeInteger(length) && Number(length) >= 0);
    return lengths.length === shape.length ? lengths : undefined;
  } catch {
    return undefined;
  }
}
