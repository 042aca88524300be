/** Writes fixture checkpoints: real headers, data left sparse. Shared by unit tests and benches. */
import { mkdir, open, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { type Dtype, DTYPE_BITS } from '../../extension/safetensors-ts/src/index.ts';

export interface TensorSpec {
  readonly name: string;
  readonly dtype: Dtype;
  readonly shape: readonly number[];
}

/** Tensors by name, BF16 unless `[dtype, shape]` says otherwise. */
export type Shapes = Readonly<Record<string, readonly number[] | readonly [Dtype, readonly number[]]>>;

export function specs(shapes: Shapes): TensorSpec[] {
  return Object.entries(shapes).map(([name, value]) => {
    const [first, second] = value;
    if (typeof first === 'string' && Array.isArray(second)) return { name, dtype: first, shape: second };
    return { name, dtype: 'BF16', shape: value.filter((dimension) => typeof dimension === 'number') };
  });
}

/** The bytes of a file up to its data, and the bytes of that data. */
export function headerOf(tensors: readonly TensorSpec[], metadata?: Readonly<Record<string, string>>): { head: Buffer; dataBytes: number } {
  const parts: string[] = metadata ? [`"__metadata__":${JSON.stringify(metadata)}`] : [];
  let offset = 0;
  for (const { name, dtype, shape } of tensors) {
    const end = offset + (shape.reduce((product, dimension) => product * dimension, 1) * DTYPE_BITS[dtype]) / 8;
    parts.push(`${JSON.stringify(name)}:{"dtype":"${dtype}","shape":[${shape.join(',')}],"data_offsets":[${offset},${end}]}`);
    offset = end;
  }
  const text = Buffer.from(`{${parts.join(',')}}`);
  const head = Buffer.alloc(8 + Math.ceil(text.length / 8) * 8, 0x20);
  head.writeBigUInt64LE(BigInt(head.length - 8));
  text.copy(head, 8);
  return { head, dataBytes: offset };
}

/** A file of exactly this header and this much data, unchecked: for broken ones. */
export function rawFile(header: string | Buffer, dataBytes: number, length = Buffer.byteLength(header)): Buffer {
  const head = Buffer.alloc(8);
  head.writeBigUInt64LE(BigInt(length));
  return Buffer.concat([head, Buffer.from(header), Buffer.alloc(dataBytes)]);
}

export async function writeTensors(file: string, tensors: readonly TensorSpec[], metadata?: Readonly<Record<string, string>>): Promise<void> {
  const { head, dataBytes } = headerOf(tensors, metadata);
  const handle = await open(file, 'w');
  try {
    await handle.write(head);
    await handle.truncate(head.length + dataBytes);
  } finally {
    await handle.close();
  }
}

/** A model folder in one file. */
export async function writeModel(folder: string, config: unknown, shapes: Shapes): Promise<string> {
  await mkdir(folder, { recursive: true });
  await writeTensors(path.join(folder, 'model.safetensors'), specs(shapes), { format: 'pt' });
  if (config !== undefined) await writeFile(path.join(folder, 'config.json'), JSON.stringify(config));
  return folder;
}

/** A model folder in shards of as many tensors each, with its index. */
export async function writeSharded(folder: string, config: unknown, tensors: readonly TensorSpec[], shards: number): Promise<string> {
  await mkdir(folder, { recursive: true });
  const size = Math.ceil(tensors.length / shards);
  const lines: string[] = [];
  for (let shard = 0; shard < shards; shard++) {
    const name = `model-${String(shard + 1).padStart(5, '0')}-of-${String(shards).padStart(5, '0')}.safetensors`;
    const own = tensors.slice(shard * size, (shard + 1) * size);
    await writeTensors(path.join(folder, name), own, { format: 'pt' });
    for (const tensor of own) lines.push(`    ${JSON.stringify(tensor.name)}: ${JSON.stringify(name)}`);
  }
  const index = `{\n  "metadata": {"total_size": 1},\n  "weight_map": {\n${lines.join(',\n')}\n  }\n}\n`;
  await writeFile(path.join(folder, 'model.safetensors.index.json'), index);
  if (config !== undefined) await writeFile(path.join(folder, 'config.json'), JSON.stringify(config));
  return folder;
}
