/** What tells one state of a model from another without reading its weights: the same as `Checkpoint.fingerprint` in the engine. */
import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { chooseFiles, readIndex, readRawHeader } from 'safetensors-ts';
import { isMissing } from '../runs/files.ts';

/**
 * SHA-256 in hex over config.json and, in order of name, each shard's name, a zero byte, header length (8 bytes), header.
 * @throws SafetensorsError when the weights cannot be read
 */
export async function fingerprintOf(folder: string): Promise<string> {
  const digest = createHash('sha256').update(await configBytes(folder));
  for (const name of await shardNames(folder)) {
    const { text } = await readRawHeader(path.join(folder, name));
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(text.length));
    digest.update(name).update('\0').update(length).update(text);
  }
  return digest.digest('hex');
}

async function configBytes(folder: string): Promise<Buffer> {
  return readFile(path.join(folder, 'config.json')).catch((error: unknown) => {
    if (isMissing(error)) {
      return Buffer.alloc(0);
    }
    throw error;
  });
}

/** By code points, as Python sorts. */
async function shardNames(folder: string): Promise<readonly string[]> {
  const { file, index } = chooseFiles(folder, (await readdir(folder)).sort());
  if (index === undefined) {
    return file === undefined ? [] : [file];
  }
  const { shards } = await readIndex(path.join(folder, index));
  return [...shards].sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
}
