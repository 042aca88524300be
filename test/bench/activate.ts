/**
 * Activating the packed extension in the extension host of a real workbench: from the call until `activate()` has returned, and until the
 * first command was done (target: activation under 100 ms). Each time is of a window of its own; min and median of several.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { build } from 'esbuild';
import { projectRoot } from '../../extension/scripts/project.ts';
import { runQuiet } from '../../extension/scripts/terminal.ts';
import { runInHost } from '../e2e/host.ts';
import { Server } from '../e2e/server.ts';
import * as prepare from '../suites/prepare.ts';
import type { Row } from './bench.ts';

const WINDOWS = 7;

export async function bench(): Promise<Row[]> {
  process.env.E2E_CHROMIUM ??= await prepare.workbench();
  const folder = await mkdtemp(path.join(tmpdir(), 'bondwise-activate-'));
  try {
    const python = await prepare.python();
    // A VSIX is a zip file.
    await runQuiet(python, ['-m', 'zipfile', '-e', await prepare.vsix(), folder], { failure: 'The package cannot be unpacked.' });
    const tests = path.join(folder, 'measure.cjs');
    await build({ entryPoints: [path.join(projectRoot, 'test/bench/activate/measure.ts')], outfile: tests, bundle: true, platform: 'node', format: 'cjs', external: ['vscode'], logLevel: 'warning' });
    const times: Times[] = [];
    for (let window = 0; window < WINDOWS; window++) {
      times.push(await once(path.join(folder, 'extension'), tests));
    }
    return (['activate_ms', 'first_command_ms'] as const).map(what => {
      const sorted = times.map(time => time[what]).sort((a, b) => a - b);
      return { what: what === 'activate_ms' ? 'activate()' : 'until the first command was done', windows: WINDOWS, min_ms: sorted[0] ?? 0, median_ms: sorted[Math.floor(sorted.length / 2)] ?? 0 };
    });
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

interface Times {
  readonly activate_ms: number;
  readonly first_command_ms: number;
}

async function once(development: string, tests: string): Promise<Times> {
  const server = await Server.start({ driver: true, env: {} });
  let told: Times | undefined;
  const lines: string[] = [];
  try {
    await runInHost(server, {
      development,
      tests,
      timeout: 120_000,
      onLine: line => {
        lines.push(line);
        const [, json] = /activated (\{.*\})/.exec(line) ?? [];
        told ??= json === undefined ? undefined : (JSON.parse(json) as Times);
      },
    });
  } finally {
    await server.stop();
  }
  if (!told) {
    throw new Error(`The window did not tell its times:\n${lines.slice(-10).join('\n')}`);
  }
  return told;
}
