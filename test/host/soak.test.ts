/**
 * Many runs, one after the other, in one extension host; only when BONDWISE_SOAK says how many. What is measured is the host, so the engine is
 * a small process that writes a run's files as the engine does.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdir, rm } from 'node:fs/promises';
import path from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { describe, it } from 'mocha';
import * as vscode from 'vscode';
import type { Api } from '../../extension/extension.ts';
import { identify } from '../../extension/runs/process.ts';
import { api, tensorizeResult, until, workspaceFolder, writeRun } from './fixtures.ts';

const RUNS = Number(process.env.BONDWISE_SOAK);
/** Before the first measure: what is loaded once, compiled and cached is there by then. */
const WARM = 20;
/** Each so manieth run is shown in its panel, which is closed again. */
const SHOWN = 5;

/** Argument: the run directory and the result. It lives as long as a reader needs to see it run. */
const ENGINE = `
const fs = require('node:fs'), path = require('node:path');
const [directory, result, identity] = process.argv.slice(1);
const put = (name, text) => { fs.writeFileSync(path.join(directory, name + '.new'), text); fs.renameSync(path.join(directory, name + '.new'), path.join(directory, name)); };
const status = (state) => put('status.json', JSON.stringify({ version: 1, state, process: JSON.parse(identity), updated: new Date().toISOString() }));
const made = JSON.parse(result);
for (let seq = 1; seq <= 30; seq++) fs.appendFileSync(path.join(directory, 'events.ndjson'), JSON.stringify({ seq, time: new Date().toISOString(), type: 'layer', layer: { ...made.layers[0], name: 'model.layers.' + seq + '.mlp.up_proj' } }) + '\\n');
put('result.json', result);
status('done');
`;

interface Measure {
  readonly heap_mb: number;
  readonly descriptors: number;
  readonly timers: number;
  readonly watchers: number;
  readonly resources: number;
}

async function measure(): Promise<Measure> {
  setFlagsFromString('--expose_gc');
  const collect = runInNewContext('gc') as () => void;
  for (let i = 0; i < 4; i++) {
    await new Promise(resolve => setTimeout(resolve, 300));
    collect();
  }
  const resources = process.getActiveResourcesInfo();
  const count = (kind: string) => resources.filter(name => name === kind).length;
  return {
    heap_mb: Math.round(process.memoryUsage().heapUsed / 1e4) / 100,
    descriptors: (await readdir('/proc/self/fd')).length,
    timers: count('Timeout'),
    watchers: count('FSEventWrap') + count('FSEvent'),
    resources: resources.length,
  };
}

async function oneRun(extension: Api, number: number): Promise<void> {
  const root = path.join(workspaceFolder(), '.bondwise', 'runs');
  const self = await identify(process.pid);
  const id = `20260301-${String(number).padStart(6, '0')}-tensorize-00soak`;
  const directory = await writeRun(root, id, { title: `Soak ${number}` }, { state: 'running', ...(self && { process: self }) });
  const result = JSON.stringify(tensorizeResult(path.join(workspaceFolder(), 'small'), 'model.layers.0.mlp.up_proj'));
  await until('seen', () => extension.runs.get(directory));
  if (number % SHOWN === 0) {
    await vscode.commands.executeCommand('bondwise.showRunPanel', directory);
  }
  const child = spawn(process.execPath, ['-e', ENGINE, directory, result, JSON.stringify(self)], { stdio: 'ignore', env: { ...process.env, ELECTRON_RUN_AS_NODE: '1' } });
  await once(child, 'close');
  await until('done', () => (extension.runs.get(directory)?.state === 'done' ? true : undefined));
  assert.equal(extension.runs.get(directory)?.summary.layers.length, 30);
  await vscode.window.tabGroups.close(vscode.window.tabGroups.all.flatMap(group => group.tabs));
  await vscode.commands.executeCommand('notifications.clearAll');
  await rm(directory, { recursive: true });
  await until('gone', () => (extension.runs.get(directory) ? undefined : true));
}

describe('a long time in one extension host', () => {
  it(`leaves nothing behind after ${RUNS} runs`, async function () {
    this.timeout(1_200_000);
    const extension = await api();
    for (let number = 0; number < WARM; number++) {
      await oneRun(extension, number);
    }
    const before = await measure();
    for (let number = WARM; number < WARM + RUNS; number++) {
      await oneRun(extension, number);
    }
    const after = await measure();
    console.log(`SOAK ${JSON.stringify({ runs: RUNS, before, after })}`);
    assert.equal(extension.runs.runs.filter(({ title }) => title.startsWith('Soak')).length, 0);
  });
});
