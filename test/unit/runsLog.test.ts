import { mkdtemp, open, readdir, rm, stat, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { logTail, rotateLog } from '../../extension/runs/log.ts';

let folder: string;
let log: string;
beforeEach(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), 'bondwise-log-'));
  log = path.join(folder, 'log.txt');
});
afterEach(() => rm(folder, { recursive: true }));

test('a log of gigabytes is read from its end alone, in whole lines', async () => {
  const size = 5_000_000_000;
  const handle = await open(log, 'w');
  await handle.write('\nlast but one\nthe last line\n', size);
  await handle.close();
  const before = process.memoryUsage.rss();
  expect(await logTail(log, 20)).toEqual({ text: 'the last line\n', skipped: size + 14 });
  const tail = await logTail(log);
  expect(tail?.text).toBe('last but one\nthe last line\n');
  expect(process.memoryUsage.rss() - before).toBeLessThan(100e6);
});

test('a short log is opened as it is, and one that is not there is none', async () => {
  expect(await logTail(log)).toBeUndefined();
  await writeFile(log, 'short\n');
  expect(await logTail(log)).toBeUndefined();
});

test('a large log gives way to a new one, and the old one of before goes', async () => {
  await rotateLog(log);
  await writeFile(log, 'short\n');
  await rotateLog(log);
  expect(await readdir(folder)).toEqual(['log.txt']);
  await writeFile(path.join(folder, 'log.1.txt'), 'older');
  const handle = await open(log, 'w');
  await handle.truncate(100_000_000);
  await handle.close();
  await rotateLog(log);
  expect(await readdir(folder)).toEqual(['log.1.txt']);
  expect((await stat(path.join(folder, 'log.1.txt'))).size).toBe(100_000_000);
});
