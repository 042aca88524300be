/** How much an environment takes, for the user's consent: measured when the lock was made (`npm run lock -- --measure`). */
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import type { Lock } from './home.ts';

export interface EnvironmentSize {
  /** Bytes over the network on a machine that has nothing of it. */
  readonly download: number;
  /** Bytes on disk afterwards. */
  readonly installed: number;
}

/** Recorded beside the locks. */
export const SIZES_FILE = 'requirements.sizes.json';

/** Lock → the lock's SHA-256 and, by `platform-architecture` in Node's words, the sizes. */
export type Sizes = Partial<Record<Lock, { readonly sha256: string; readonly platforms: Readonly<Record<string, EnvironmentSize>> }>>;

/**
 * The size of a lock's environment on a platform; undefined when it was not measured for this lock. It is an upper bound: what uv has in
 * its cache already is not downloaded again.
 */
export async function downloadSize(engineDir: string, lock: Lock, platform = `${process.platform}-${process.arch}`): Promise<EnvironmentSize | undefined> {
  const measured = (await readSizes(engineDir))[lock];
  const sha256 = createHash('sha256').update(await readFile(path.join(engineDir, lock))).digest('hex');
  return measured?.sha256 === sha256 ? measured.platforms[platform] : undefined;
}

export async function readSizes(engineDir: string): Promise<Sizes> {
  const text = await readFile(path.join(engineDir, SIZES_FILE), 'utf8').catch(() => '{}');
  const value: unknown = JSON.parse(text);
  return isSizes(value) ? value : {};
}

function isSizes(value: unknown): value is Sizes {
  return isObject(value) && Object.values(value).every(entry => isObject(entry) && typeof entry.sha256 === 'string' && isObject(entry.platforms) && Object.values(entry.platforms).every(isSize));
}

function isSize(value: unknown): boolean {
  return isObject(value) && typeof value.download === 'number' && typeof value.installed === 'number';
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
