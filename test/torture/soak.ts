/** 200 runs in one extension host (a stubbed engine process each): memory, open files, timers and watchers are then as before. */
import { spawn } from 'node:child_process';
import path from 'node:path';
import { projectRoot } from '../../extension/scripts/project.ts';
import * as prepare from '../suites/prepare.ts';
import type { Options, Row } from './torture.ts';

const RUNS = { short: 0, usual: 200, long: 1_000 } as const;
/** What may be more at the end: the workbench does things of its own meanwhile. */
const SLACK = { heap_mb: 12, descriptors: 3, timers: 3, watchers: 0, resources: 6 } as const;

type Measure = Readonly<Record<keyof typeof SLACK, number>>;

export async function torture({ size }: Options): Promise<Row[]> {
  const runs = RUNS[size];
  if (runs === 0) return [];
  const env = { ...process.env, BONDWISE_SOAK: String(runs), E2E_CHROMIUM: await prepare.workbench(), BONDWISE_TEST_PYTHON: await prepare.python() };
  const output = await new Promise<string>((resolve, reject) => {
    void prepare.hostBundle().then(bundle => {
      const child = spawn(process.execPath, [path.join(projectRoot, 'test/suites/host.ts'), bundle], { env, stdio: ['ignore', 'pipe', 'inherit'] });
      let text = '';
      child.stdout.on('data', (chunk: Buffer) => (text += chunk.toString()));
      child.on('error', reject);
      child.on('close', () => resolve(text));
    }, reject);
  });
  const found = /SOAK (\{.*\})/.exec(output)?.[1];
  if (found === undefined) {
    return [{ what: `${runs} runs in one extension host`, unit: 'runs', tried: runs, stood: 0, failures: output.split('\n').slice(-20) }];
  }
  const { before, after } = JSON.parse(found) as { before: Measure; after: Measure };
  const names = Object.keys(SLACK) as (keyof Measure)[];
  const failures = names.filter(name => after[name] - before[name] > SLACK[name]).map(name => `${name}: ${before[name]} before, ${after[name]} after`);
  const note = names.map(name => `${name} ${before[name]} → ${after[name]}`).join(', ');
  return [{ what: `${runs} runs in one extension host`, unit: 'runs', tried: runs, stood: failures.length === 0 ? runs : 0, failures, note }];
}
