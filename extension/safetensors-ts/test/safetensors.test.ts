import { execFileSync } from 'node:child_process';
import { mkdir, mkdtemp, rename, rm, symlink, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { assertSafeShardFilename, SafetensorParseError, validateTensorEntry } from '@huggingface/hub';
import { DTYPE_BITS, findTensor, isDtype, openCheckpoint, readHeader, readIndex, readTensorBytes, SafetensorsError } from '../src/index.ts';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import corpus from '../../../test/fixtures/safetensors-corpus.json' with { type: 'json' };
import { headerOf, rawFile, specs, writeModel, writeSharded, writeTensors } from '../../../test/unit/checkpoints.ts';

interface Case {
  readonly name: string;
  readonly header?: string;
  readonly base64?: string;
  readonly data: number;
  readonly length?: string;
  readonly accept: boolean;
  readonly stricter?: string;
}

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'safetensors-'));
});
afterAll(async () => {
  await rm(folder, { recursive: true });
});

async function failure(work: Promise<unknown>): Promise<SafetensorsError> {
  const error: unknown = await work.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (!(error instanceof SafetensorsError)) throw new Error(`expected a SafetensorsError, got ${String(error)}`);
  return error;
}

async function file(name: string, content: Buffer | string): Promise<string> {
  const target = path.join(folder, name);
  await writeFile(target, content);
  return target;
}

describe('the verdict of the reference implementation', () => {
  const cases: readonly Case[] = corpus.cases;
  test.each(cases.map((one) => [one.name, one] as const))('%s', async (_, one) => {
    const header = one.base64 === undefined ? Buffer.from(one.header ?? '') : Buffer.from(one.base64, 'base64');
    const content = rawFile(header, one.data);
    if (one.length !== undefined) content.writeBigUInt64LE(BigInt(one.length));
    const target = await file('case.safetensors', content);
    if (one.accept && one.stricter === undefined) {
      const parsed: unknown = JSON.parse(header.toString());
      const names = typeof parsed === 'object' && parsed !== null ? Object.keys(parsed) : [];
      const found = await readHeader(target);
      expect([...found.tensors.keys()].sort()).toEqual(names.filter((name) => name !== '__metadata__').sort());
    } else {
      const error = await failure(readHeader(target));
      if (one.stricter !== undefined) expect(error.code).toBe(one.stricter);
      expect(error.message).toContain(target);
      expect(error.remedy).not.toBe('');
    }
  });
});

describe('one file', () => {
  test('gives names, shapes, places and metadata', async () => {
    const tensors = specs({ 'b.weight': [3, 5], 'größe 😀': ['F32', [2]], empty: [0, 7], scalar: ['F64', []] });
    await writeTensors(path.join(folder, 'one.safetensors'), tensors, { format: 'pt', note: 'a "quoted"\nline' });
    const found = await readHeader(path.join(folder, 'one.safetensors'));
    expect([...found.tensors.values()].map(({ name, dtype, shape }) => ({ name, dtype, shape }))).toEqual(tensors);
    expect([...found.tensors.values()].map(({ offset, bytes, order }) => [offset - found.dataStart, bytes, order])).toEqual([
      [0, 30, 0],
      [30, 8, 1],
      [38, 0, 2],
      [38, 8, 3],
    ]);
    expect(found.metadata).toEqual(new Map([['format', 'pt'], ['note', 'a "quoted"\nline']]));
    expect(found.size).toBe(headerOf(tensors, { format: 'pt', note: 'a "quoted"\nline' }).head.length + 46);
  });

  test('reads the bytes of a tensor and of a part of it', async () => {
    const { head, dataBytes } = headerOf(specs({ a: ['U8', [4]], b: ['U8', [8]] }));
    const target = await file('bytes.safetensors', Buffer.concat([head, Buffer.from(Array.from({ length: dataBytes }, (_, i) => i))]));
    const entry = (await readHeader(target)).tensors.get('b');
    if (!entry) throw new Error('b is missing');
    expect([...(await readTensorBytes(entry))]).toEqual([4, 5, 6, 7, 8, 9, 10, 11]);
    expect([...(await readTensorBytes(entry, 2, 3))]).toEqual([6, 7, 8]);
    await expect(readTensorBytes(entry, 6, 3)).rejects.toThrow(RangeError);
    await expect(readTensorBytes(entry, -1, 2)).rejects.toThrow(RangeError);
    await truncate(target, head.length + 6);
    expect((await failure(readTensorBytes(entry))).code).toBe('truncated');
  });

  test('reads a header longer than one read', async () => {
    const shapes = Object.fromEntries(Array.from({ length: 3000 }, (_, i) => [`model.layers.${i}.mlp.down_proj.weight`, [i % 7, 3]]));
    await writeTensors(path.join(folder, 'long.safetensors'), specs(shapes));
    const found = await readHeader(path.join(folder, 'long.safetensors'));
    expect(found.dataStart).toBeGreaterThan(200_000);
    expect([...found.tensors.values()].map(({ name, shape }) => [name, shape])).toEqual(Object.entries(shapes));
  });

  test.each<[string, Buffer | string, string, string]>([
    ['an empty file', '', 'truncated', 'it has 0 bytes'],
    ['a file cut within the header', rawFile('{"a":', 0, 900), 'truncated', 'should end at byte 908'],
    ['a file cut within the data', rawFile('{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}', 9), 'truncated', 'its tensors end at byte 79'],
    ['a text file', 'version https://git-lfs.github.com/spec/v1\noid sha256:0\n', 'header-too-large', 'the safetensors format allows 100000000'],
    ['text instead of JSON', rawFile('hello', 0), 'not-json', 'does not begin with {'],
    ['a header that ends early', rawFile('{"a":{"dtype":"F32",', 0), 'not-json', 'found the end at its byte 20'],
    ['a hole', rawFile('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[3,4]}}', 4), 'bad-offsets', 'bytes 1 to 3 of the data, before tensor "b"'],
    ['an overlap', rawFile('{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}}', 4), 'bad-offsets', 'tensor "b" overlaps'],
    ['two tensors in one place', rawFile('{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"b":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}', 3), 'bad-offsets', '"a" and "b" overlap'],
    ['bytes behind the tensors', rawFile('{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}', 8), 'unindexed-data', '5 bytes after the last tensor'],
    ['a wrong size', rawFile('{"a":{"dtype":"BF16","shape":[3,2],"data_offsets":[0,6]}}', 6), 'size-mismatch', 'of BF16 [3, 2] takes 12 bytes, but its data_offsets span 6'],
    ['a dtype of no library', rawFile('{"a":{"dtype":"Q4_K","shape":[2],"data_offsets":[0,1]}}', 1), 'unknown-dtype', '"Q4_K"'],
    ['a negative length', rawFile('{"a":{"dtype":"U8","shape":[-2],"data_offsets":[0,2]}}', 2), 'bad-number', 'has -2 in its shape'],
    ['a second tensor of the same name', rawFile('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"\\u0061":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}', 2), 'duplicate-key', '"a" stands twice'],
  ])('refuses %s and says what is wrong', async (_, content, code, words) => {
    const target = await file('broken.safetensors', content);
    const error = await failure(readHeader(target));
    expect(error).toMatchObject({ code, file: target });
    expect(error.message).toContain(words);
  });

  test('shows names from a file without what could deceive', async () => {
    const name = JSON.stringify(`a\u202e\u0007${'x'.repeat(500)}`);
    const error = await failure(readHeader(await file('evil.safetensors', rawFile(`{${name}:{}}`, 0))));
    expect(error.message).toContain('\\u202e');
    expect(error.message).toContain('\\u0007');
    expect(error.message.length).toBeLessThan(400);
  });

  test('refuses what is not a file, without waiting for it', async () => {
    expect((await failure(readHeader(folder))).code).toBe('unreadable');
    expect((await failure(readHeader(path.join(folder, 'absent.safetensors')))).message).toContain('it does not exist');
    if (process.platform === 'win32') return;
    execFileSync('mkfifo', [path.join(folder, 'pipe.safetensors')]);
    expect((await failure(readHeader(path.join(folder, 'pipe.safetensors')))).code).toBe('unreadable');
  });

  test('stops when it is aborted', async () => {
    await writeTensors(path.join(folder, 'abort.safetensors'), specs({ a: [1] }));
    await expect(readHeader(path.join(folder, 'abort.safetensors'), AbortSignal.abort())).rejects.toThrow('aborted');
  });
});

describe('a checkpoint in shards', () => {
  const tensors = specs(Object.fromEntries(Array.from({ length: 10 }, (_, i) => [`layers.${i}.weight`, [2, i + 1]])));
  const shard = (position: number): string => `model-0000${position}-of-00003.safetensors`;

  async function sharded(name: string): Promise<string> {
    return await writeSharded(path.join(folder, name), {}, tensors, 3);
  }

  async function index(root: string, map: Readonly<Record<string, unknown>>): Promise<void> {
    await writeFile(path.join(root, 'model.safetensors.index.json'), JSON.stringify({ metadata: { total_size: 1, x: [1, { y: null }] }, weight_map: map }));
  }

  const whole = Object.fromEntries(tensors.map(({ name }, i) => [name, shard(Math.floor(i / 4) + 1)]));

  test('opens as one', async () => {
    const root = await sharded('whole');
    const checkpoint = await openCheckpoint(root);
    expect(checkpoint.files.map(({ path: file, tensors: own }) => [path.basename(file), own.size])).toEqual([
      [shard(1), 4],
      [shard(2), 4],
      [shard(3), 2],
    ]);
    expect(checkpoint.problems).toEqual([]);
    expect(checkpoint.totalBytes).toBe(220);
    expect(findTensor(checkpoint, 'layers.9.weight')).toMatchObject({ shape: [2, 10], order: 9, file: path.join(root, shard(3)) });
    expect(findTensor(checkpoint, 'absent')).toBeUndefined();
    expect((await readIndex(path.join(root, 'model.safetensors.index.json'))).weightMap).toEqual(
      new Map(tensors.map(({ name }, i) => [name, Math.floor(i / 4)])),
    );
  });

  test('opens whatever the order of the index, and through links', async () => {
    const root = await sharded('reversed');
    await index(root, Object.fromEntries(Object.entries(whole).reverse()));
    expect((await openCheckpoint(root)).problems).toEqual([]);
    const link = path.join(folder, 'linked');
    await symlink(root, link);
    expect((await openCheckpoint(link)).files).toHaveLength(3);
  });

  test('refuses links out of the folder, but for those of the hub cache', async () => {
    const root = await sharded('links');
    const outside = path.join(folder, 'elsewhere.safetensors');
    await rename(path.join(root, shard(2)), outside);
    await symlink(outside, path.join(root, shard(2)));
    expect((await failure(openCheckpoint(root))).code).toBe('link-outside');
    const snapshot = path.join(folder, 'models--a--b/snapshots/0123');
    await mkdir(path.dirname(snapshot), { recursive: true });
    await mkdir(path.join(folder, 'models--a--b/blobs'));
    await rename(root, snapshot);
    const blob = path.join(folder, 'models--a--b/blobs/abcd');
    await rename(outside, blob);
    await rm(path.join(snapshot, shard(2)));
    await symlink('../../blobs/abcd', path.join(snapshot, shard(2)));
    expect((await openCheckpoint(snapshot)).files).toHaveLength(3);
  });

  test('names missing shards', async () => {
    const root = await sharded('missing');
    await rm(path.join(root, shard(2)));
    const error = await failure(openCheckpoint(root));
    expect(error.code).toBe('missing-shard');
    expect(error.message).toContain(`lacks 1 of the 3 shards that model.safetensors.index.json names: "${shard(2)}"`);
  });

  test('reports where index and shards disagree, and stays readable', async () => {
    const root = await sharded('disagree');
    const [first = '', second = '', ...rest] = Object.keys(whole);
    await index(root, { ...Object.fromEntries(rest.map((name) => [name, whole[name]])), [second]: shard(3), phantom: shard(1) });
    const { problems, files } = await openCheckpoint(root);
    expect(problems.map(({ code, message }) => [code, message.replace(/^.*?: /, '')])).toEqual([
      ['not-in-shard', `2 tensors not in the shard that the index names: "${second}", "phantom".`],
      ['not-in-index', `2 tensors in the shards but not in the index: "${first}", "${second}".`],
    ]);
    expect(files).toHaveLength(3);
  });

  test('refuses a tensor that two shards hold', async () => {
    const root = await sharded('twice');
    await writeTensors(path.join(root, shard(3)), [...tensors.slice(8), ...tensors.slice(0, 1)]);
    const error = await failure(openCheckpoint(root));
    expect(error.code).toBe('duplicate-key');
    expect(error.message).toContain(shard(1));
    expect(error.message).toContain(shard(3));
  });

  test('refuses a tensor that stands twice in the index', async () => {
    const root = await sharded('double');
    const text = JSON.stringify({ weight_map: whole }).replace('"layers.1.weight"', '"layers.0.weight"');
    await writeFile(path.join(root, 'model.safetensors.index.json'), text);
    expect((await failure(openCheckpoint(root))).code).toBe('duplicate-key');
    expect((await failure(readIndex(path.join(root, 'model.safetensors.index.json')))).code).toBe('duplicate-key');
  });

  const unsafe = [
    '../model.safetensors',
    'sub/model.safetensors',
    'sub\\model.safetensors',
    '/etc/model.safetensors',
    'C:model.safetensors',
    'https://example.org/model.safetensors',
    '%2e%2e%2fmodel.safetensors',
    '%252e%252e%252fmodel.safetensors',
    '',
    '..',
    'model.bin',
    'a\0.safetensors',
  ];
  test.each(unsafe)('refuses the shard name %j', async (name) => {
    const root = await sharded('unsafe');
    await index(root, { ...whole, extra: name });
    expect((await failure(openCheckpoint(root))).code).toBe('unsafe-shard-name');
  });

  test('refuses every shard name that @huggingface/hub refuses', () => {
    const refusedByHub = unsafe.filter((name) => {
      try {
        assertSafeShardFilename(name);
        return false;
      } catch (error) {
        return error instanceof SafetensorParseError;
      }
    });
    expect(refusedByHub.length).toBeGreaterThan(5);
    expect(() => {
      assertSafeShardFilename(shard(1));
    }).not.toThrow();
  });

  test.each<[string, string, string]>([
    ['no JSON', 'not-json', '{'],
    ['an array', 'bad-index', '[]'],
    ['no weight_map', 'bad-index', '{"metadata":{}}'],
    ['an empty weight_map', 'bad-index', '{"weight_map":{}}'],
    ['a weight_map of numbers', 'bad-index', '{"weight_map":{"a":1}}'],
    ['two weight_maps', 'bad-index', `{"weight_map":{"a":"${shard(1)}"},"weight_map":{"a":"${shard(1)}"}}`],
    ['something behind', 'not-json', `{"weight_map":{"a":"${shard(1)}"}} x`],
  ])('refuses an index with %s', async (_, code, text) => {
    const root = await sharded('index');
    await writeFile(path.join(root, 'model.safetensors.index.json'), text);
    expect((await failure(openCheckpoint(root))).code).toBe(code);
  });

  test('wants an index for shards, and takes a single file of any name', async () => {
    const root = await sharded('none');
    await rm(path.join(root, 'model.safetensors.index.json'));
    expect((await failure(openCheckpoint(root))).code).toBe('index-missing');
    await writeTensors(path.join(root, 'model.safetensors'), tensors);
    expect((await openCheckpoint(root)).files).toHaveLength(1);
    const other = await writeModel(path.join(folder, 'other'), {}, { a: [1] });
    await rm(path.join(other, 'model.safetensors'));
    expect((await failure(openCheckpoint(other))).code).toBe('no-weights');
    await writeTensors(path.join(other, 'adapter_model.safetensors'), tensors);
    expect((await openCheckpoint(other)).files).toHaveLength(1);
  });
});

test('every entry that is accepted, @huggingface/hub accepts too', async () => {
  await writeTensors(
    path.join(folder, 'hub.safetensors'),
    Object.keys(DTYPE_BITS).filter(isDtype).map((dtype) => ({ name: dtype, dtype, shape: [2, 4] })),
  );
  const found = await readHeader(path.join(folder, 'hub.safetensors'));
  expect(found.tensors.size).toBe(22);
  for (const { name, dtype, shape, offset, bytes } of found.tensors.values()) {
    const begin = offset - found.dataStart;
    validateTensorEntry('hub.safetensors', name, { dtype, shape: [...shape], data_offsets: [begin, begin + bytes] }, found.size);
  }
});
