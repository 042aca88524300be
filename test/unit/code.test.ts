import { createHash } from 'node:crypto';
import { copyFile, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { codeHash, hasOtherModule, pythonFiles } from '../../extension/checkpoint/index.ts';

const engine = path.join(import.meta.dirname, '../../engine/bondwise');
let folder: string;
beforeEach(async () => (folder = await mkdtemp(path.join(tmpdir(), 'bondwise-code-'))));
afterEach(() => rm(folder, { recursive: true }));

describe('the Python files of a folder', () => {
  test('are all of them, those in folders below too, and nothing else', async () => {
    await mkdir(path.join(folder, 'parts.py'));
    for (const name of ['modeling_x.py', 'config.json', path.join('parts.py', 'a.py'), path.join('parts.py', 'a.pyc')]) {
      await writeFile(path.join(folder, name), name);
    }
    expect(await pythonFiles(folder)).toEqual(['modeling_x.py', path.join('parts.py', 'a.py')]);
    await expect(pythonFiles(path.join(folder, 'gone'))).rejects.toThrow(/gone cannot be read/);
  });

  test('have a hash over names, lengths and bytes', async () => {
    await writeFile(path.join(folder, 'b.py'), 'two');
    await writeFile(path.join(folder, 'a.py'), '1');
    const bytes = Buffer.concat([Buffer.from('a.py\0'), Buffer.from([1, 0, 0, 0, 0, 0, 0, 0]), Buffer.from('1b.py\0'), Buffer.from([3, 0, 0, 0, 0, 0, 0, 0]), Buffer.from('two')]);
    expect(await codeHash(folder)).toBe(createHash('sha256').update(bytes).digest('hex'));
  });

  test.each([
    ['a file that is changed', () => writeFile(path.join(folder, 'a.py'), 'import os')],
    ['a file that comes', () => writeFile(path.join(folder, 'b.py'), '')],
    ['a file that goes', () => rm(path.join(folder, 'a.py'))],
  ])('have another hash after %s', async (_, change) => {
    await writeFile(path.join(folder, 'a.py'), 'import re');
    const before = await codeHash(folder);
    await writeFile(path.join(folder, 'README.md'), 'of no matter');
    expect(await codeHash(folder)).toBe(before);
    await change();
    expect(await codeHash(folder)).not.toBe(before);
  });
});

test('a compressed model has another module when its own is changed or gone; other models have none', async () => {
  const own = { folder, modelType: 'bondwise_mpo' };
  const module = path.join(folder, 'modeling_mpo.py');
  expect(await hasOtherModule(own, engine)).toBe(true);
  await copyFile(path.join(engine, 'modeling_mpo.py'), module);
  expect(await hasOtherModule(own, engine)).toBe(false);
  await writeFile(module, '\n', { flag: 'a' });
  expect(await hasOtherModule(own, engine)).toBe(true);
  expect(await hasOtherModule({ folder, modelType: 'llama' }, engine)).toBe(false);
});
