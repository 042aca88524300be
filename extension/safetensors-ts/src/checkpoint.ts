/** A folder of safetensors files as one checkpoint. */
import { readdir, realpath } from 'node:fs/promises';
import path from 'node:path';
import { SafetensorsError, type SafetensorsErrorCode, shown } from './errors.ts';
import { asSafetensorsError, parseRawHeader, type RawHeader, readRawHeader, type SafetensorsFile } from './file.ts';
import type { TensorEntry } from './header.ts';
import { Pace } from './pace.ts';
import { duplicateLine, type ScannedIndex, scanIndex } from './shard-index.ts';

const SINGLE = 'model.safetensors';
const INDEX = 'model.safetensors.index.json';
const INDEX_SUFFIX = '.safetensors.index.json';
const SHARD = /-\d{5,6}-of-\d{5,6}\.safetensors$/;
/** Headers read ahead while one is parsed. */
const AHEAD = 8;
const NAMED_IN_MESSAGE = 5;

export interface Checkpoint {
  readonly folder: string;
  /** In the order of the index. */
  readonly files: readonly SafetensorsFile[];
  /** Bytes of all tensors. */
  readonly totalBytes: number;
  /** What is wrong but leaves the rest readable: index and shards that disagree. */
  readonly problems: readonly SafetensorsError[];
}

/**
 * Opens a folder by its headers alone. Which files: `model.safetensors`, else the index, else the only safetensors file, as transformers
 * chooses.
 * @throws SafetensorsError
 */
export async function openCheckpoint(folder: string, signal?: AbortSignal): Promise<Checkpoint> {
  const present = await list(folder);
  const chosen = chooseFiles(folder, present);
  const pace = new Pace();
  const index = chosen.index === undefined ? undefined : await scanIndex(path.join(folder, chosen.index), pace, signal);
  if (index) requireShards(folder, present, index);
  const names = index?.shards ?? (chosen.file === undefined ? [] : [chosen.file]);
  await requireInside(folder, chosen.index === undefined ? names : [chosen.index, ...names]);
  const files: SafetensorsFile[] = [];
  let count = 0;
  let totalBytes = 0;
  for await (const raw of readAhead(names.map((name) => path.join(folder, name)))) {
    const file = await parseRawHeader(raw, count, pace, signal);
    files.push(file);
    count += file.tensors.size;
    totalBytes += raw.dataBytes;
    if (pace.due()) await pace.rest(signal);
  }
  const problems = index ? await compare(index, files, count, pace, signal) : [];
  return { folder, files, totalBytes, problems };
}

/** A tensor by name, whichever shard holds it. */
export function findTensor(checkpoint: Checkpoint, name: string): TensorEntry | undefined {
  for (const file of checkpoint.files) {
    const entry = file.tensors.get(name);
    if (entry) return entry;
  }
  return undefined;
}

/** Which of a folder's files make the checkpoint: one file or an index. */
export function chooseFiles(folder: string, names: readonly string[]): { readonly file?: string; readonly index?: string } {
  if (names.includes(SINGLE)) return { file: SINGLE };
  if (names.includes(INDEX)) return { index: INDEX };
  const indexes = names.filter((name) => name.endsWith(INDEX_SUFFIX));
  if (indexes.length === 1 && indexes[0] !== undefined) return { index: indexes[0] };
  const files = names.filter((name) => name.endsWith('.safetensors'));
  const [only] = files;
  if (only === undefined) {
    throw new SafetensorsError('no-weights', folder, `${folder} holds no .safetensors file.`, 'Choose a folder with a safetensors checkpoint.');
  }
  if (files.length === 1 && !(SHARD.test(only) && !only.includes('-of-00001.'))) return { file: only };
  throw new SafetensorsError(
    'index-missing',
    folder,
    `${folder} holds ${files.length} .safetensors ${files.length === 1 ? 'file that is one shard of several' : 'files'}, but no ${INDEX} that says how they belong together.`,
    `Add the checkpoint's ${INDEX}: it is published beside the shards.`,
  );
}

async function list(folder: string): Promise<string[]> {
  try {
    return (await readdir(folder)).sort();
  } catch (error) {
    throw asSafetensorsError(error, folder);
  }
}

function requireShards(folder: string, present: readonly string[], index: ScannedIndex): void {
  const there = new Set(present);
  const missing = index.shards.filter((shard) => !there.has(shard));
  if (missing.length === 0) return;
  throw new SafetensorsError(
    'missing-shard',
    index.path,
    `${folder} lacks ${missing.length} of the ${index.shards.length} shards that ${path.basename(index.path)} names: ${some(missing)}.`,
    'Download the missing files into the folder.',
  );
}

/**
 * A link out of the folder is no part of the checkpoint. In the cache of the Hugging Face hub a snapshot's files are links into the `blobs` of
 * the same repository: those are.
 */
async function requireInside(folder: string, names: readonly string[]): Promise<void> {
  const home = await realpath(folder);
  const snapshots = path.dirname(home);
  const places = [home, ...(path.basename(snapshots) === 'snapshots' ? [path.join(path.dirname(snapshots), 'blobs')] : [])];
  for (const name of names) {
    const file = path.join(folder, name);
    const target = await realpath(file).catch((error: unknown) => {
      throw asSafetensorsError(error, file);
    });
    if (!places.some((place) => target.startsWith(place + path.sep))) {
      throw new SafetensorsError(
        'link-outside',
        file,
        `${file} is a link out of its folder, to ${target}.`,
        'If you trust it, put a copy of that file in its place; the files of a checkpoint lie in its own folder.',
      );
    }
  }
}

/** Reads headers in order, the next few while the caller works on one. */
async function* readAhead(paths: readonly string[]): AsyncGenerator<RawHeader> {
  const pending: Promise<RawHeader>[] = [];
  let started = 0;
  const start = (): void => {
    const next = paths[started++];
    if (next === undefined) return;
    const reading = readRawHeader(next);
    reading.catch(() => undefined); // told when its turn comes
    pending.push(reading);
  };
  for (let i = 0; i < AHEAD; i++) start();
  for (let next = pending.shift(); next; next = pending.shift()) {
    start();
    yield await next;
  }
}

/**
 * Where the index and the shards' headers disagree. Both usually list a shard's tensors in the same order, so each line is first held
 * against the tensor after the last one found in its shard, and looked up by name only where that fails.
 * @throws SafetensorsError where one name stands for two tensors
 */
async function compare(
  index: ScannedIndex,
  files: readonly SafetensorsFile[],
  count: number,
  pace: Pace,
  signal: AbortSignal | undefined,
): Promise<SafetensorsError[]> {
  const entries: TensorEntry[][] = [];
  for (const file of files) {
    entries.push([...file.tensors.values()]);
    if (pace.due()) await pace.rest(signal);
  }
  const next = new Array<number>(files.length).fill(0);
  const listed = new Uint8Array(count);
  const absent: string[] = [];
  for (let line = 0; line < index.shardOf.length; line++) {
    if ((line & 255) === 0 && pace.due()) await pace.rest(signal);
    const shard = index.shardOf[line] ?? 0;
    const name = index.name(line);
    let entry = entries[shard]?.[next[shard] ?? 0];
    if (!entry || !name.tokenIs(entry.name)) entry = files[shard]?.tensors.get(name.text());
    if (!entry) {
      absent.push(name.text());
      continue;
    }
    if (listed[entry.order]) throw duplicateLine(index.path, entry.name);
    listed[entry.order] = 1;
    next[shard] = entry.order - (entries[shard]?.[0]?.order ?? 0) + 1;
  }
  const unlisted: string[] = [];
  if (index.shardOf.length - absent.length < count) {
    for (const entry of entries.flat()) {
      if (listed[entry.order]) continue;
      const twin = files.find((file) => file.path !== entry.file && file.tensors.has(entry.name));
      if (twin) throw inTwoShards(entry, twin.path);
      unlisted.push(entry.name);
    }
  }
  const problems: SafetensorsError[] = [];
  const report = (code: SafetensorsErrorCode, names: readonly string[], what: string): void => {
    if (names.length === 0) return;
    const counted = names.length === 1 ? '1 tensor' : `${names.length} tensors`;
    const remedy = 'Index and shards are not of the same checkpoint: download both again.';
    problems.push(new SafetensorsError(code, index.path, `${index.path}: ${counted} ${what}: ${some(names)}.`, remedy));
  };
  report('not-in-shard', absent, 'not in the shard that the index names');
  report('not-in-index', unlisted, 'in the shards but not in the index');
  return problems;
}

function inTwoShards(entry: TensorEntry, other: string): SafetensorsError {
  const remedy = 'Which of the two is meant cannot be known: write the checkpoint again.';
  return new SafetensorsError('duplicate-key', entry.file, `${entry.file}: ${shown(entry.name)} is also in ${other}.`, remedy);
}

function some(names: readonly string[]): string {
  const more = names.length - NAMED_IN_MESSAGE;
  return names.slice(0, NAMED_IN_MESSAGE).map(shown).join(', ') + (more > 0 ? ` and ${more} more` : '');
}
