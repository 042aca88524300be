/**
 * Headers of safetensors files through safetensors-ts, and the same corpus through Python's safetensors and the engine's reader.
 *
 * Where the two verdicts differ, ours must be the stricter one, and for one of the reasons that safetensors-ts's README gives. Where both
 * accept, they must have read the same tensors.
 */
import { once } from 'node:events';
import { spawn } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { existsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { crc32 } from 'node:zlib';
import { engineVariables } from '../../extension/engine/find.ts';
import { type Header, readHeader, readIndex, SafetensorsError } from '../../extension/safetensors-ts/src/index.ts';
import { parseHeader } from '../../extension/safetensors-ts/src/header.ts';
import { Pace } from '../../extension/safetensors-ts/src/pace.ts';
import { makeHeader, type Raw } from './headers.ts';
import { Random, seedOf } from './random.ts';
import type { Options, Row } from './torture.ts';

const COUNTS = { short: 20_000, usual: 200_000, long: 1_000_000 } as const;
const INDEXES = { short: 4_000, usual: 20_000, long: 100_000 } as const;
/** So many go through a file, as a user's do; the others are parsed where they are. */
const THROUGH_FILE = 16;
/** Milliseconds: no input of a few hundred bytes may take longer, even on a machine that has other things to do. */
const HANG = 2_000;
const MOST_MEMORY = 300e6;
/** Why we refuse what the reference accepts. */
const STRICTER: Readonly<Record<string, RegExp>> = {
  'duplicate-key': /stands twice in the header|has the key (dtype|shape|data_offsets) twice/,
  'bad-entry': /is described by \[/,
  'not-json': /does not begin with \{/,
  'bad-number': /not a whole number from 0 to 2\^53|has a shape too large to count/,
};

/** Keys within an entry, which stand in each. */
const FIELDS: ReadonlySet<string> = new Set(['dtype', 'shape', 'data_offsets']);

interface Verdict {
  readonly error?: SafetensorsError;
  /** Of names, dtypes and shapes. */
  readonly digest: number;
}

export async function torture(options: Options): Promise<Row[]> {
  const folder = await mkdtemp(path.join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'bondwise-torture-'));
  try {
    return [...(await headers(options, folder)), await indexes(options, folder)];
  } finally {
    await rm(folder, { recursive: true });
  }
}

async function headers({ size, seed, python }: Options, folder: string): Promise<Row[]> {
  const count = COUNTS[size];
  const environment = await python();
  const child = spawn(environment.python, [path.join(import.meta.dirname, 'safetensors_verdicts.py'), folder], {
    env: { ...process.env, ...engineVariables(environment) },
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const answers: Buffer[] = [];
  child.stdout.on('data', (chunk: Buffer) => answers.push(chunk));
  const ended = once(child, 'close');
  const crashes: string[] = [];
  let accepted = 0;
  const digests = new Uint32Array(count);
  const refusals = new Map<number, Pick<SafetensorsError, 'code' | 'message'>>();
  const before = process.memoryUsage().rss;
  for (let input = 0; input < count; input++) {
    const raw = makeHeader(seedOf(seed, input));
    const file = Buffer.concat([lengthOf(raw), raw.header, Buffer.alloc(raw.data)]);
    const size = Buffer.alloc(4);
    size.writeUInt32LE(file.length);
    if (!child.stdin.write(Buffer.concat([size, file]))) await once(child.stdin, 'drain');
    const start = performance.now();
    try {
      const verdict = await judge(raw, file, folder, input);
      if (verdict.error === undefined) {
        accepted++;
        digests[input] = verdict.digest;
      } else {
        refusals.set(input, { code: verdict.error.code, message: verdict.error.message });
      }
    } catch (error) {
      crashes.push(`input ${input} of seed ${seed}: ${String(error)}`);
    }
    if (performance.now() - start > HANG) crashes.push(`input ${input} of seed ${seed}: took ${Math.round(performance.now() - start)} ms`);
    if ((input & 255) === 0) await new Promise(resolve => setImmediate(resolve));
  }
  child.stdin.end();
  await ended;
  const theirs = Buffer.concat(answers);
  const growth = process.memoryUsage().rss - before;
  const differences: string[] = [];
  const engine: string[] = [];
  const stricter = new Map<string, number>();
  if (theirs.length !== count * 6) differences.push(`Python answered ${theirs.length / 6} of ${count} inputs`);
  for (let input = 0; input * 6 < theirs.length; input++) {
    const accepts = theirs[input * 6] === 1;
    const engineSays = theirs[input * 6 + 1] ?? 0;
    const error = refusals.get(input);
    const here = `input ${input} of seed ${seed}: ${makeHeader(seedOf(seed, input)).header.toString().slice(0, 200)}`;
    if (accepts && error) {
      const why = STRICTER[error.code]?.test(error.message) === true ? error.code : hidesTwin(seed, input) ? 'a hidden twin that is wrong' : undefined;
      if (why !== undefined) stricter.set(why, (stricter.get(why) ?? 0) + 1);
      else differences.push(`${here}: only Python accepts it; ${error.message}`);
    } else if (!accepts && !error) differences.push(`${here}: only we accept it`);
    else if (accepts && digests[input] !== theirs.readUInt32LE(input * 6 + 2)) differences.push(`${here}: read differently`);
    // 0: not asked; 1: accepted; 2: refused in words; 3: another exception.
    if (engineSays === 3) engine.push(`${here}: the engine's reader crashed`);
    if (engineSays === 1 && !accepts) engine.push(`${here}: the engine reads what the reference refuses`);
    if (engineSays === 2 && !error) engine.push(`${here}: the engine refuses what safetensors-ts reads`);
  }
  const asked = theirs.filter((answer, at) => at % 6 === 1 && answer > 0).length;
  const kinds = [...stricter].map(([code, times]) => `${code} ${times}`).join(', ');
  if (growth > MOST_MEMORY && size === 'short') crashes.push(`memory grew by ${Math.round(growth / 1e6)} MB`);
  return [
    { what: 'safetensors headers: no crash, no hang', unit: 'inputs', tried: count, stood: count - crashes.length, failures: crashes, note: `${accepted} accepted` },
    { what: 'the same against Python’s safetensors', unit: 'inputs', tried: count, stood: count - differences.length, failures: differences, note: `stricter than it as documented: ${kinds}` },
    { what: 'the same through the engine’s reader', unit: 'inputs', tried: asked, stood: asked - engine.length, failures: engine },
  ];
}

/** Whether a key stands twice: the reference looks at the last one alone, we at each. */
function hidesTwin(seed: number, input: number): boolean {
  const keys = [...makeHeader(seedOf(seed, input)).header.toString().matchAll(/"(?:[^"\\]|\\.)*"(?=\s*:)/g)].map(([key]) => JSON.parse(key) as string);
  return new Set(keys.filter(key => !FIELDS.has(key))).size < keys.filter(key => !FIELDS.has(key)).length;
}

function lengthOf({ length }: Raw): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(length);
  return bytes;
}

async function judge(raw: Raw, whole: Buffer, folder: string, input: number): Promise<Verdict> {
  try {
    if (raw.length !== BigInt(raw.header.length) || input % THROUGH_FILE === 0) {
      const file = path.join(folder, 'case.safetensors');
      await writeFile(file, whole);
      return { digest: digestOf(await readHeader(file)) };
    }
    const source = { file: 'case.safetensors', dataStart: 8 + raw.header.length, dataBytes: raw.data };
    return { digest: digestOf(await parseHeader(raw.header, source, 0, new Pace())) };
  } catch (error) {
    if (error instanceof SafetensorsError) return { error, digest: 0 };
    throw error;
  }
}

function digestOf({ tensors }: Header): number {
  const lines = [...tensors.values()].map(({ name, dtype, shape }) => Buffer.from(`${name}\0${dtype}\0${shape.join(',')}\n`));
  return crc32(Buffer.concat(lines.sort((left, right) => Buffer.compare(left, right))));
}

const SHARDS = ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors', 'a.safetensors', 'a', '..', '.', '', '../a.safetensors', 'a/b.safetensors', '/etc/passwd', 'a\\b.safetensors',
  'C:\\a.safetensors', 'file:///a.safetensors', 'https://a/b.safetensors', '%2e%2e%2fa.safetensors', 'a\0.safetensors', 'a\n.safetensors', '~/a.safetensors', 'model.bin', '....//a.safetensors',
  '\u202egnp.safetensors', 'a..safetensors', ' .safetensors', '.safetensors', '\ud800.safetensors', 'x'.repeat(300) + '.safetensors'] as const;

/** Indexes: what is accepted must name files beside it and nothing else. */
async function indexes({ size, seed }: Options, folder: string): Promise<Row> {
  const failures: string[] = [];
  const file = path.join(folder, 'model.safetensors.index.json');
  let accepted = 0;
  for (let input = 0; input < INDEXES[size]; input++) {
    const random = new Random(seedOf(seed ^ 0x51ed, input));
    const map = Array.from({ length: random.below(5) }, (_, i) => `${JSON.stringify(random.chance(0.05) ? 't' : `t${i}`)}:${random.chance(0.04) ? '7' : JSON.stringify(random.chance(0.8) ? SHARDS[random.below(2)] : random.pick(SHARDS))}`);
    let text = `{"metadata":{"total_size":${random.chance(0.1) ? '1e400' : '1'}},"weight_map":{${map.join(',')}}}`;
    for (let change = random.below(3); change > 0; change--) {
      const at = random.below(text.length + 1);
      text = random.chance(0.3) ? text.slice(0, at) + text.slice(at + 1) : random.chance(0.3) ? text.slice(0, at) + random.pick(['{', '}', '"', ',', ':', '\\', '\0', '[[['] as const) + text.slice(at) : text;
    }
    const bytes = Buffer.from(text);
    if (random.chance(0.05) && bytes.length > 0) bytes[random.below(bytes.length)] = random.below(256);
    await writeFile(file, bytes);
    try {
      const { shards } = await readIndex(file);
      accepted++;
      const astray = shards.find(shard => path.dirname(path.resolve(folder, shard)) !== folder || !shard.endsWith('.safetensors'));
      if (astray !== undefined) failures.push(`input ${input} of seed ${seed}: the shard ${JSON.stringify(astray)} leaves the folder`);
    } catch (error) {
      if (!(error instanceof SafetensorsError)) failures.push(`input ${input} of seed ${seed}: ${String(error)}: ${text.slice(0, 200)}`);
    }
  }
  return { what: 'index files: no crash, no path outside the folder', unit: 'inputs', tried: INDEXES[size], stood: INDEXES[size] - failures.length, failures, note: `${accepted} accepted` };
}
