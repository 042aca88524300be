/** A stand-in for the engine that keeps to the run directory's protocol, as a real process: `python -P -u -m bondwise start RUN_DIR`. */
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Environment } from '../../extension/engine/find.ts';
import type { RunRequest, RunStatus } from '../../extension/protocol/types.ts';
import { identify } from '../../extension/runs/process.ts';

/** What the stand-in does, told by the request's title. */
export type Behaviour = 'works' | 'ignores' | 'stubborn' | 'parent' | 'quick';

export function request(title: Behaviour | 'any' = 'any'): RunRequest {
  return { version: 1, kind: 'sample-model', created: '2026-01-02T03:04:05Z', title, options: { output: 'model' } };
}

/**
 * works: stops at the file `cancel`. ignores: passes over the file and stops at SIGTERM. stubborn: only SIGKILL ends it.
 * parent: stubborn, with a child that is stubborn too. quick: is done at once.
 */
const SOURCE = `
const fs = require('node:fs');
const path = require('node:path');
const os = require('node:os');
const { spawn } = require('node:child_process');
if (process.argv[2] === 'child') {
  process.on('SIGTERM', () => {});
  setInterval(() => {}, 1000);
} else {
  const directory = process.argv.at(-1);
  const behaviour = JSON.parse(fs.readFileSync(path.join(directory, 'run.json'), 'utf8')).title;
  const stat = fs.readFileSync('/proc/self/stat', 'utf8');
  const started = 'linux:' + fs.readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim() + ':' + stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19];
  let seq = 0;
  try { seq = fs.readFileSync(path.join(directory, 'events.ndjson'), 'utf8').trim().split('\\n').length; } catch {}
  const status = fields => {
    const file = path.join(directory, 'status.json');
    fs.writeFileSync(file + '.tmp', JSON.stringify({ version: 1, process: { pid: process.pid, started, host: os.hostname() }, updated: new Date().toISOString(), ...fields }));
    fs.renameSync(file + '.tmp', file);
  };
  const emit = fields => fs.appendFileSync(path.join(directory, 'events.ndjson'), JSON.stringify({ seq: ++seq, time: new Date().toISOString(), ...fields }) + '\\n');
  const end = state => {
    emit({ type: 'ended', state });
    status({ state });
    process.exit(state === 'done' ? 0 : 130);
  };
  if (behaviour !== 'works' && behaviour !== 'quick') process.on('SIGTERM', () => behaviour === 'ignores' && end('cancelled'));
  console.log('the fake engine speaks');
  emit({ type: 'started', engine: '0', torch: '0', device: 'cpu', resumed: seq > 0 });
  if (behaviour === 'parent') {
    const child = spawn(process.execPath, [__filename, 'child'], { stdio: 'ignore' });
    fs.writeFileSync(path.join(directory, 'child'), String(child.pid));
  }
  status({ state: 'running', phase: 'working' });
  if (behaviour === 'quick') end('done');
  setInterval(() => behaviour === 'works' && fs.existsSync(path.join(directory, 'cancel')) && end('cancelled'), 20);
}
`;

export interface Fake {
  readonly folder: string;
  readonly environment: Environment;
  /** Ends every process that a run directory names, and removes the folder. */
  readonly dispose: () => Promise<void>;
  readonly remember: (directory: string) => void;
}

export async function makeFake(): Promise<Fake> {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'bondwise-runs-'));
  const python = path.join(folder, 'python');
  const script = path.join(folder, 'engine.cjs');
  await writeFile(script, SOURCE);
  await writeFile(python, `#!/bin/sh\nexec '${process.execPath}' '${script}' "$@"\n`);
  await chmod(python, 0o755);
  await mkdir(path.join(folder, 'runs'));
  const directories: string[] = [];
  return {
    folder,
    environment: { python, version: '3.11.0', source: 'setting', engineDir: folder, home: folder },
    remember: directory => directories.push(directory),
    dispose: async () => {
      for (const directory of directories) {
        const process_ = (await readStatus(directory).catch(() => undefined))?.process;
        if (process_ && (await identify(process_.pid))?.started === process_.started) {
          process.kill(-process_.pid, 'SIGKILL');
        }
      }
      await rm(folder, { recursive: true, force: true });
    },
  };
}

export async function readStatus(directory: string): Promise<RunStatus> {
  return JSON.parse(await readFile(path.join(directory, 'status.json'), 'utf8')) as RunStatus;
}

/** Waits for a condition; the test's own time-out is the limit. */
export async function until<T>(condition: () => Promise<T | undefined | false> | T | undefined | false): Promise<T> {
  for (;;) {
    const value = await condition();
    if (value !== undefined && value !== false) {
      return value;
    }
    await sleep(20);
  }
}
