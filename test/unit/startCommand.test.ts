import { execFile } from 'node:child_process';
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Environment } from '../../extension/engine/find.ts';
import { launch } from '../../extension/engine/launch.ts';
import { parseSpread, quoted, startCommand, startLine } from '../../extension/engine/startCommand.ts';
import { createRun } from '../../extension/runs/create.ts';
import { request, until } from './runsFake.ts';

const TELL = `#!/bin/sh
printf '%s\\n' "$0" "$@" "PYTHONPATH=$PYTHONPATH" "PYTHONSAFEPATH=$PYTHONSAFEPATH" "BONDWISE_HOME=$BONDWISE_HOME"
`;
let folder: string;
let environment: Environment;

beforeEach(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), "bondwise it's $HOME-"));
  await mkdir(path.join(folder, 'bin'));
  for (const name of ['python', 'torchrun']) {
    await writeFile(path.join(folder, 'bin', name), TELL);
    await chmod(path.join(folder, 'bin', name), 0o755);
  }
  environment = { python: path.join(folder, 'bin', 'python'), version: '3.12.0', source: 'bondwise', engineDir: path.join(folder, 'engine'), home: path.join(folder, 'home') };
});
afterEach(() => rm(folder, { recursive: true, force: true }));

/** What a shell makes of a line, in a folder where nothing of it lies. */
async function words(line: string): Promise<readonly string[]> {
  return (await promisify(execFile)('/bin/sh', ['-c', line], { cwd: '/' })).stdout.trimEnd().split('\n');
}

describe('the line that does a run', () => {
  const variables = (safe: string) => [`PYTHONPATH=${path.join(folder, 'engine')}`, `PYTHONSAFEPATH=${safe}`, `BONDWISE_HOME=${path.join(folder, 'home')}`];

  it('of one process is the engine’s own, whatever stands in the paths', async () => {
    const directory = path.join(folder, 'runs', 'a "b"; rm');
    expect(await words(startLine(environment, directory, { machines: 1, processes: 1 }, 'host'))).toEqual([environment.python, '-P', '-u', '-m', 'bondwise', 'start', directory, ...variables('')]);
  });

  it('of several processes is torchrun’s', async () => {
    const line = startLine(environment, '/runs/x', { machines: 1, processes: 4 }, 'host');
    expect(await words(line)).toEqual([path.join(folder, 'bin', 'torchrun'), '--standalone', '--nproc-per-node', '4', '-m', 'bondwise', 'start', '/runs/x', ...variables('1')]);
  });

  it('of several machines is the same on each, and says where they meet', async () => {
    const line = startLine(environment, '/runs/2026-heal-1', { machines: 2, processes: 8 }, 'node0');
    const meeting = ['--nnodes', '2', '--rdzv-backend', 'c10d', '--rdzv-endpoint', 'node0:29400', '--rdzv-id', '2026-heal-1'];
    expect(await words(line)).toEqual([path.join(folder, 'bin', 'torchrun'), ...meeting, '--nproc-per-node', '8', '-m', 'bondwise', 'start', '/runs/2026-heal-1', ...variables('1')]);
    // One process on each of two machines is no run of one process.
    expect(startLine(environment, '/x', { machines: 2, processes: 1 }, 'h')).toContain('--nnodes 2');
  });

  it('calls torchrun by its module where the program is not beside the interpreter', async () => {
    await rm(path.join(folder, 'bin', 'torchrun'));
    expect(await words(startLine(environment, '/x', { machines: 1, processes: 2 }, 'h'))).toEqual([environment.python, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2', '-m', 'bondwise', 'start', '/x', ...variables('1')]);
  });

  it.each([
    ['plain/path-1.2', 'plain/path-1.2'],
    ['', "''"],
    ["it's", "'it'\\''s'"],
    ['a b', "'a b'"],
    ['$(x)', "'$(x)'"],
  ])('quotes %j', (word, expected) => expect(quoted(word)).toBe(expected));
});

describe('how many processes', () => {
  it.each([
    ['4', { machines: 1, processes: 4 }],
    ['2x8', { machines: 2, processes: 8 }],
    ['2 × 8 GPUs', { machines: 2, processes: 8 }],
    ['4 processes', { machines: 1, processes: 4 }],
    ['0', undefined],
    ['x', undefined],
    ['', undefined],
    ['2x', undefined],
  ])('%j', (text, expected) => expect(parseSpread(text)).toEqual(expected));
});

describe('the start of a run', () => {
  it('is by torchrun where the request asks for several processes', async () => {
    const directory = await createRun(path.join(folder, 'runs'), { ...request(), processes: 3 });
    await launch(environment, directory);
    const log = await until(async () => {
      const text = await readFile(path.join(directory, 'log.txt'), 'utf8');
      return text.includes('BONDWISE_HOME') && text;
    });
    expect(log).toContain(['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '3', '-m', 'bondwise', 'start', directory].join('\n'));
    expect(log).toContain('PYTHONSAFEPATH=1');
    expect(startCommand(environment, directory, 1).arguments).not.toContain('torch.distributed.run');
  });
});
