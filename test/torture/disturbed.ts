/**
 * Run directories as a machine in trouble leaves them, looked at by the extension's reader of runs: journals of 100,000 events, of a newer
 * version, replaced and cut; a network file system without events; two windows on one folder; run directories that come and go meanwhile.
 */
import { appendFile, mkdir, mkdtemp, open, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { Journal } from '../../extension/runs/journal.ts';
import { createRun } from '../../extension/runs/create.ts';
import { replaceJson } from '../../extension/runs/files.ts';
import { logTail } from '../../extension/runs/log.ts';
import { identify } from '../../extension/runs/process.ts';
import { RunStore } from '../../extension/runs/store.ts';
import { request } from '../unit/runsFake.ts';
import { Random, seedOf } from './random.ts';
import type { Options, Row } from './torture.ts';

const COUNTS = { short: 20, usual: 200, long: 2_000 } as const;
const EVENTS = 100_000;
/** The extension host may not stand still for longer, on a machine that has other things to do. */
const PAUSE = 250;

const warning = (seq: number): string => `{"seq":${seq},"time":"2026-01-01T00:00:00Z","type":"warning","message":"w${seq % 7}"}\n`;

export async function torture({ size, seed }: Options): Promise<Row[]> {
  const folder = await mkdtemp(path.join(tmpdir(), 'bondwise-torture-'));
  try {
    return [await manyEvents(folder), await sparseLog(folder), await growing(folder, COUNTS[size], seed), await windows(folder, COUNTS[size], seed)];
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function manyEvents(folder: string): Promise<Row> {
  const file = path.join(folder, 'many.ndjson');
  await writeFile(file, Array.from({ length: EVENTS }, (_, i) => warning(i + 1)).join(''));
  let longest = 0;
  let last = performance.now();
  const timer = setInterval(() => {
    longest = Math.max(longest, performance.now() - last);
    last = performance.now();
  }, 1);
  const journal = new Journal(file);
  await journal.read();
  clearInterval(timer);
  const isWhole = journal.summary.seq === EVENTS && journal.problem === undefined && journal.summary.warnings.length === 7;
  return { what: 'a journal of 100,000 events, without a long pause', unit: 'journals', tried: 1, stood: Number(isWhole && longest < PAUSE), note: `longest pause ${Math.round(longest)} ms` };
}

async function sparseLog(folder: string): Promise<Row> {
  const file = path.join(folder, 'log.txt');
  const handle = await open(file, 'w');
  await handle.write('\nthe end\n', 8e9);
  await handle.close();
  const before = process.memoryUsage.rss();
  const tail = await logTail(file);
  const grown = process.memoryUsage.rss() - before;
  return { what: 'a log of 8 GB: its end alone is read', unit: 'logs', tried: 1, stood: Number(tail?.text === 'the end\n' && grown < 100e6) };
}

/** A writer appends, tears, cuts and replaces; a reader looks in between. What it says is always what a fresh reader says. */
async function growing(folder: string, count: number, seed: number): Promise<Row> {
  const failures: string[] = [];
  for (let input = 0; input < count; input++) {
    const random = new Random(seedOf(seed, input));
    const file = path.join(folder, `growing-${input}.ndjson`);
    const journal = new Journal(file);
    let seq = 0;
    let whole = 0;
    for (let step = 0; step < 30; step++) {
      switch (random.below(6)) {
        case 0: {
          // Killed within a line; the resume cuts it off.
          await appendFile(file, warning(seq + 1).slice(0, random.below(40)));
          await journal.read();
          await truncate(file, whole);
          break;
        }
        case 1:
          if (random.chance(0.2)) {
            await rm(file, { force: true });
            [seq, whole] = [0, 0];
            break;
          }
          await appendFile(file, `{"seq":${++seq},"time":"2030-01-01T00:00:00Z","type":"of-a-newer-engine","more":[1]}\n`);
          whole += Buffer.byteLength(`{"seq":${seq},"time":"2030-01-01T00:00:00Z","type":"of-a-newer-engine","more":[1]}\n`);
          break;
        default:
          for (let more = random.below(20); more > 0; more--) {
            const line = warning(++seq);
            await appendFile(file, line);
            whole += line.length;
          }
      }
      if (random.chance(0.6)) await journal.read();
    }
    await journal.read();
    const fresh = new Journal(file);
    await fresh.read();
    if (journal.summary.seq !== seq || fresh.summary.seq !== seq || journal.problem !== undefined) {
      failures.push(`journal ${input} of seed ${seed}: ${journal.summary.seq} of ${seq} events, ${journal.problem ?? 'no problem told'}`);
    }
  }
  return { what: 'journals torn, cut, deleted and of a newer version while they are followed', unit: 'journals', tried: count, stood: count - failures.length, failures };
}

/** Two stores, as two windows have them, on one folder where runs come, die and go; one without file events, as on a network. */
async function windows(folder: string, count: number, seed: number): Promise<Row> {
  const root = path.join(folder, 'runs');
  await mkdir(root);
  const [polling, listening] = [new RunStore({ activeInterval: 20, idleInterval: 20, useEvents: false }), new RunStore({ activeInterval: 1e9, idleInterval: 1e9, useEvents: true })];
  const failures: string[] = [];
  let faults = 0;
  try {
    await Promise.all([polling.setRoots([root]), listening.setRoots([root])]);
    const self = await identify(process.pid);
    for (let input = 0; input < count / 4; input++) {
      const random = new Random(seedOf(seed ^ 0x22, input));
      const directories = await Promise.all(Array.from({ length: 4 }, () => createRun(root, request())));
      for (const directory of directories) {
        faults++;
        // Alive; alive under an id that was used again; dead; of an engine that never wrote whom it is.
        const process = random.pick([self, self && { ...self, started: `${self.started}0` }, self && { ...self, pid: 2 ** 22 + 1 }] as const);
        await replaceJson(path.join(directory, 'status.json'), { version: 1, state: 'running', updated: new Date().toISOString(), process });
      }
      await Promise.all([polling.refresh(), listening.refresh()]);
      await Promise.all([polling.refresh(), listening.refresh()]);
      for (const directory of directories) {
        const [one, other] = [polling.get(directory), listening.get(directory)];
        const isOurs = one?.status?.process?.pid === process.pid && one.status.process.started === self?.started;
        if (one?.state !== other?.state || one?.state !== (isOurs ? 'running' : 'interrupted')) {
          failures.push(`run ${path.basename(directory)}: ${one?.state ?? 'gone'} in one window, ${other?.state ?? 'gone'} in the other`);
        }
      }
      await Promise.all(directories.map(directory => rm(directory, { recursive: true })));
      for (const until = performance.now() + 5_000; polling.runs.length > 0 && performance.now() < until; ) await new Promise(resolve => setTimeout(resolve, 10));
      if (polling.runs.length > 0) failures.push('a window that polls did not see runs go');
    }
  } finally {
    polling.dispose();
    listening.dispose();
  }
  return { what: 'two windows on one folder, one of them without file events; dead processes, ids used again', unit: 'runs', tried: faults, stood: faults - failures.length, failures };
}
