import { appendFile, mkdir, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createRun } from '../../extension/runs/create.ts';
import { replaceJson } from '../../extension/runs/files.ts';
import { identify } from '../../extension/runs/process.ts';
import { RunStore, type RunsChange } from '../../extension/runs/store.ts';
import type { RunStatus } from '../../extension/protocol/types.ts';
import { request, until } from './runsFake.ts';

let folder: string;
let root: string;
let store: RunStore;
let changes: RunsChange[];

beforeEach(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), 'bondwise-store-'));
  root = path.join(folder, 'runs');
  changes = [];
});
afterEach(async () => {
  store.dispose();
  await rm(folder, { recursive: true, force: true });
});

/** With intervals that never come, so that a test sees what it asked for and nothing else. */
function makeStore(options: ConstructorParameters<typeof RunStore>[0] = { activeInterval: 1e9, idleInterval: 1e9, useEvents: false }): void {
  store = new RunStore(options);
  store.onDidChange(change => changes.push(change));
}

/** A run that this very process works on. */
async function working(fields: Partial<RunStatus> = {}): Promise<string> {
  const directory = await createRun(root, request());
  await setStatus(directory, fields);
  return directory;
}

async function setStatus(directory: string, fields: Partial<RunStatus>): Promise<void> {
  const self = await identify(process.pid);
  const status: RunStatus = { version: 1, state: 'running', updated: new Date().toISOString(), ...(self && { process: self }), ...fields };
  await replaceJson(path.join(directory, 'status.json'), status);
}

const warning = (seq: number): string => `${JSON.stringify({ seq, time: '2026-01-01T00:00:00Z', type: 'warning', message: `w${seq}` })}\n`;

describe('the store', () => {
  it('tells what came, changed and went', async () => {
    makeStore();
    await store.setRoots([root]);
    expect(store.runs).toEqual([]);
    const directory = await working();
    await store.refresh();
    expect(changes.map(({ added, changed, removed }) => [added.length, changed.length, removed.length])).toEqual([[1, 0, 0]]);
    expect(store.get(directory)).toBe(store.get(path.basename(directory)));

    await appendFile(path.join(directory, 'events.ndjson'), warning(1));
    await store.refresh();
    expect(changes.at(-1)?.changed[0]?.run.summary.warnings).toEqual(['w1']);
    expect(changes.at(-1)?.changed[0]?.before.summary.warnings).toEqual([]);

    await store.refresh();
    expect(changes).toHaveLength(2);

    await rm(directory, { recursive: true });
    await store.refresh();
    expect(changes.at(-1)?.removed.map(run => run.directory)).toEqual([directory]);
    expect(store.runs).toEqual([]);
  });

  it.each([true, false])('follows by itself, with file events: %s', async useEvents => {
    makeStore({ activeInterval: useEvents ? 1e9 : 30, idleInterval: useEvents ? 1e9 : 30, useEvents });
    await mkdir(root);
    await store.setRoots([root]);
    const directory = await working({ phase: 'one' });
    await until(() => store.get(directory));
    await setStatus(directory, { phase: 'two' });
    await until(() => store.get(directory)?.status?.phase === 'two');
    await appendFile(path.join(directory, 'events.ndjson'), warning(1));
    await until(() => store.get(directory)?.summary.seq === 1);
    await rm(directory, { recursive: true });
    await until(() => store.get(directory) === undefined);
  });

  it('finds a folder of runs that comes later, and one that is taken away with its runs', async () => {
    makeStore({ activeInterval: 20, idleInterval: 20, useEvents: false });
    await store.setRoots([root, path.join(folder, 'more')]);
    const directory = await working();
    await until(() => store.runs.length === 1);
    await rename(root, path.join(folder, 'more'));
    await until(() => store.runs[0]?.directory === path.join(folder, 'more', path.basename(directory)));
    expect(store.runs).toHaveLength(1);
  });

  it('shows files that cannot be read as a run with its reason', async () => {
    makeStore();
    const cases: [string, string, string][] = [
      ['run.json', 'half {', 'run.json is not JSON'],
      ['run.json', '{"version": 2, "kind": "dream"}', 'run.json was made by a newer Bondwise (format 2; this one reads up to 1). Update the extension.'],
      ['run.json', '{"version": 1, "kind": "sample-model"}', 'run.json is not valid'],
      ['status.json', '[]', 'status.json is not valid'],
      ['status.json', '{"version": 9}', 'status.json was made by a newer Bondwise'],
    ];
    for (const [file, text, problem] of cases) {
      const directory = await working();
      await writeFile(path.join(directory, file), text);
      await store.setRoots([root]);
      const run = store.get(directory);
      expect(run?.state).toBe('invalid');
      expect(run?.problem).toContain(problem);
    }
  });

  it('tells of a bad journal line and keeps the run', async () => {
    makeStore();
    const directory = await working();
    await writeFile(path.join(directory, 'events.ndjson'), `${warning(1)}oops\n`);
    await store.setRoots([root]);
    expect(store.get(directory)).toMatchObject({ state: 'running', summary: { seq: 1 }, problem: 'line 2 of events.ndjson is not JSON: oops' });
  });

  it('passes over folders that are no runs', async () => {
    makeStore();
    await mkdir(path.join(root, 'notes'), { recursive: true });
    await mkdir(path.join(root, '.new-x'));
    await writeFile(path.join(root, '.new-x', 'run.json'), JSON.stringify(request()));
    await writeFile(path.join(root, 'file'), '');
    await store.setRoots([root]);
    expect(store.runs).toEqual([]);
  });

  it('has the result once the run has ended, and sees a resume by somebody else', async () => {
    makeStore();
    const directory = await working();
    const evaluation = { data: 'builtin', perplexity: 20, standard_error: 1, tokens: 100, tokens_per_second: 10, prompt: 'a', sample: 'b' };
    await replaceJson(path.join(directory, 'result.json'), { kind: 'sample-model', output: '/m', evaluation, seconds: 2 });
    await store.setRoots([root]);
    expect(store.get(directory)?.result).toBeUndefined();
    await setStatus(directory, { state: 'done' });
    await store.refresh();
    expect(store.get(directory)?.result).toMatchObject({ output: '/m' });
    await setStatus(directory, { state: 'running' });
    await store.refresh();
    expect(store.get(directory)?.state).toBe('running');
  });

  it('says nothing after it was disposed', async () => {
    makeStore();
    await working();
    const looking = store.setRoots([root]);
    store.dispose();
    await looking;
    expect(changes).toEqual([]);
  });
});
