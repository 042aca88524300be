/** `model.safetensors.index.json`: which shard holds which tensor. */
import path from 'node:path';
import { SafetensorsError, shown } from './errors.ts';
import { readFully, withFile } from './file.ts';
import { JsonScanner } from './json.ts';
import { Pace } from './pace.ts';

/** About two million tensors; the format sets no limit. */
export const MAX_INDEX_BYTES = 200_000_000;
/** As `@huggingface/hub` has it: far above any real model. */
const MAX_SHARDS = 10_000;
const OPEN_OBJECT = 0x7b;
const CLOSE_OBJECT = 0x7d;
const COLON = 0x3a;
const REMEDY = 'The index is damaged or was not written by a known library: download or write it again.';

export interface ShardIndex {
  readonly path: string;
  /** File names in the index's own folder, in order of first mention. */
  readonly shards: readonly string[];
  /** Tensor name → position in `shards`. */
  readonly weightMap: ReadonlyMap<string, number>;
}

/**
 * Reads and validates an index. Shard names that leave the folder are refused.
 * @throws SafetensorsError
 */
export async function readIndex(file: string, signal?: AbortSignal): Promise<ShardIndex> {
  const pace = new Pace();
  const scanned = await scanIndex(file, pace, signal);
  const weightMap = new Map<string, number>();
  for (let line = 0; line < scanned.shardOf.length; line++) {
    const name = scanned.name(line).text();
    if (weightMap.set(name, scanned.shardOf[line] ?? 0).size === line) throw duplicateLine(file, name);
    if ((line & 63) === 0 && pace.due()) await pace.rest(signal);
  }
  return { path: file, shards: scanned.shards, weightMap };
}

export function duplicateLine(file: string, name: string): SafetensorsError {
  return new SafetensorsError('duplicate-key', file, `${file}: tensor ${shown(name)} stands twice in the weight_map.`, REMEDY);
}

/** An index by the places of its names in the text: half a million strings are not made only to be compared. */
export interface ScannedIndex {
  readonly path: string;
  readonly shards: readonly string[];
  /** Position in `shards`, line by line of the weight map. */
  readonly shardOf: readonly number[];
  /** A scanner whose last token is the tensor name of a line. */
  readonly name: (line: number) => JsonScanner;
}

export async function scanIndex(file: string, pace: Pace, signal?: AbortSignal): Promise<ScannedIndex> {
  const text = await withFile(file, async (handle, size) => {
    if (size > MAX_INDEX_BYTES) throw bad(file, `it is ${size} bytes long, more than the ${MAX_INDEX_BYTES} that are read`);
    const bytes = Buffer.allocUnsafeSlow(size);
    await readFully(handle, bytes, 0, file);
    return bytes;
  });
  const scanner = new JsonScanner(text, file, 'the index');
  let index: ScannedIndex | undefined;
  if (!scanner.take(OPEN_OBJECT)) throw bad(file, `it is ${scanner.excerpt()}, not an object`);
  if (!scanner.take(CLOSE_OBJECT)) {
    do {
      const key = scanner.string();
      scanner.expect(COLON);
      if (key === 'weight_map') {
        if (index) throw bad(file, 'it has two weight_maps');
        index = await scanWeightMap(scanner, pace, signal);
      } else scanner.skip(1);
    } while (scanner.more(CLOSE_OBJECT));
  }
  scanner.end();
  if (!index || index.shards.length === 0) throw bad(file, 'it has no weight_map that says which file holds which tensor');
  return index;
}

async function scanWeightMap(scanner: JsonScanner, pace: Pace, signal: AbortSignal | undefined): Promise<ScannedIndex> {
  const { file } = scanner;
  const shards: string[] = [];
  const positions = new Map<string, number>();
  const starts: number[] = [];
  const shardOf: number[] = [];
  const name = (line: number): JsonScanner => {
    scanner.position = (starts[line] ?? 1) - 1;
    scanner.token();
    return scanner;
  };
  if (!scanner.take(OPEN_OBJECT)) throw bad(file, `its weight_map is ${scanner.excerpt()}, not an object`);
  if (scanner.take(CLOSE_OBJECT)) return { path: file, shards, shardOf, name };
  let current = 0;
  do {
    scanner.token();
    starts.push(scanner.tokenStart);
    scanner.expect(COLON);
    if (scanner.peek() !== 0x22) throw bad(file, `tensor ${shown(name(starts.length - 1).text())} is not mapped to a file name`);
    scanner.token();
    const last = shards[current];
    if (last === undefined || !scanner.tokenIs(last)) {
      const shard = scanner.text();
      current = positions.get(shard) ?? shards.length;
      if (current === shards.length) {
        checkShardName(shard, file);
        positions.set(shard, current);
        shards.push(shard);
        if (shards.length > MAX_SHARDS) throw bad(file, `it names more than ${MAX_SHARDS} shards`);
      }
    }
    shardOf.push(current);
    if ((starts.length & 63) === 0 && pace.due()) await pace.rest(signal);
  } while (scanner.more(CLOSE_OBJECT));
  return { path: file, shards, shardOf, name };
}

/** A shard is a file beside its index: anything that could name another place is refused. */
export function checkShardName(name: string, file: string): void {
  const problem = shardNameProblem(name);
  if (problem) {
    throw new SafetensorsError(
      'unsafe-shard-name',
      file,
      `${file}: the shard name ${shown(name)} ${problem}.`,
      'Do not use this checkpoint unless you trust where it comes from; shards must lie beside their index.',
    );
  }
}

function shardNameProblem(name: string): string | undefined {
  if (name === '') return 'is empty';
  if (name.includes('://')) return 'is an address';
  if (/[/\\]/.test(name) || path.win32.isAbsolute(name) || /^[A-Za-z]:/.test(name)) return 'names another folder';
  if (name === '.' || name.includes('..')) return 'contains ..';
  // Percent-encoded separators become real ones where a reader fetches shards by address.
  if (/%(?:25)*(?:2e|2f|5c)/i.test(name)) return 'hides a separator by percent-encoding';
  // eslint-disable-next-line no-control-regex -- control characters are what is looked for
  if (/[\u0000-\u001f\u007f]/.test(name)) return 'contains a control character';
  if (!name.endsWith('.safetensors')) return 'does not end in .safetensors';
  return undefined;
}

function bad(file: string, problem: string): SafetensorsError {
  return new SafetensorsError('bad-index', file, `${file} cannot be used: ${problem}.`, REMEDY);
}
