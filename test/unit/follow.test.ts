import { mkdir, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { FolderWatchers } from '../../extension/checkpoint/index.ts';

let root: string;
let told: string[];
let watchers: FolderWatchers;

beforeEach(async () => {
  root = await mkdtemp(path.join(tmpdir(), 'bondwise-follow-'));
  told = [];
  watchers = new FolderWatchers((folder, file) => told.push(`${path.basename(folder)}:${file ?? '-'}`));
});

afterEach(async () => {
  watchers.dispose();
  await rm(root, { recursive: true, force: true });
});

async function made(name: string): Promise<string> {
  const folder = path.join(root, name);
  await mkdir(folder, { recursive: true });
  return folder;
}

test('tells what changes in a folder, also where parent and folder were made in one step', async () => {
  const folder = await made('models/one');
  watchers.follow([folder]);
  await writeFile(path.join(folder, 'config.json'), '{}');
  await vi.waitFor(() => expect(told).toContain('one:config.json'));
  told.length = 0;
  await writeFile(path.join(folder, 'config.json'), '{"a": 1}');
  await vi.waitFor(() => expect(told).toContain('one:config.json'));
});

test('tells when the folder itself goes, and follows what comes in its place', async () => {
  const folder = await made('two');
  watchers.follow([folder]);
  await rename(folder, `${folder}-moved`);
  await vi.waitFor(() => expect(told).toContain('two:-'));
  told.length = 0;
  await made('two');
  watchers.follow([folder]);
  await writeFile(path.join(folder, 'model.safetensors'), '');
  await vi.waitFor(() => expect(told).toContain('two:model.safetensors'));
});

test('follows no longer what is not wanted, and leaves out what is not there', async () => {
  const [kept, dropped] = [await made('kept'), await made('dropped')];
  watchers.follow([kept, dropped, path.join(root, 'missing')]);
  watchers.follow([kept]);
  await writeFile(path.join(dropped, 'config.json'), '{}');
  await writeFile(path.join(kept, 'config.json'), '{}');
  await vi.waitFor(() => expect(told).toContain('kept:config.json'));
  expect(told.filter(each => each.startsWith('dropped'))).toEqual([]);
});
