/** What the tests of Bondwise in the workbench share: a workspace with models, a window on it, and a look at its runs from outside. */
import { execFile } from 'node:child_process';
import { cp, link, mkdir, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { bondwiseHome } from '../../extension/engine/home.ts';
import { isRunStatus } from '../../extension/protocol/validate.js';
import type { RunStatus } from '../../extension/protocol/types.ts';
import { projectRoot } from '../../extension/scripts/project.ts';
import { isAlive } from '../../extension/runs/process.ts';
import * as prepare from '../suites/prepare.ts';
import { Server } from './server.ts';
import { Workbench } from './workbench.ts';

export const sampleName = 'SmolLM2-135M-Instruct';

/** A window on a workspace, and what belongs to it. */
export interface Session {
  readonly folder: string;
  readonly server: Server;
  readonly window: Workbench;
  /** Ends the window, the server and every run of the workspace, and removes the workspace. */
  readonly end: () => Promise<void>;
}

/**
 * Makes a workspace, fills it by `fill`, and opens it in a workbench that has the packaged extension.
 * @param home where the engine's environment is; the machine's unless given.
 */
export async function openSession(
  fill: (folder: string) => Promise<unknown>,
  settings: Readonly<Record<string, unknown>> = {},
  home?: string,
): Promise<Session> {
  const folder = await mkdtemp(path.join(tmpdir(), 'bondwise-workspace-'));
  await fill(folder);
  const vsix = process.env.BONDWISE_TEST_VSIX ?? (await prepare.vsix());
  // The server gets places of its own for everything else.
  const python = home === undefined ? process.env.BONDWISE_PYTHON : undefined;
  const server = await Server.start({
    folder,
    vsix,
    settings,
    ...(python === undefined ? {} : { machineSettings: { 'bondwise.python': python } }),
    env: { BONDWISE_HOME: home ?? bondwiseHome() },
  });
  const window = await Workbench.open(server).catch(async (error: unknown) => {
    await server.stop();
    throw error;
  });
  return {
    folder,
    server,
    window,
    end: async () => {
      await window.shot(`end-${path.basename(folder)}`);
      await window.close();
      await server.stop();
      await killRuns(folder);
      if (process.env.E2E_KEEP === undefined) {
        await rm(folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
      }
    },
  };
}

/** Puts the sample model into a workspace. Weights are linked, not copied: no test changes them in place. */
export async function addSampleModel(folder: string): Promise<string> {
  const source = process.env.BONDWISE_TEST_MODEL ?? (await prepare.sampleModel());
  const target = path.join(folder, sampleName);
  await mkdir(target);
  for (const name of await readdir(source)) {
    const [from, to] = [path.join(source, name), path.join(target, name)];
    await (name.endsWith('.safetensors') ? link(from, to).catch(() => cp(from, to)) : cp(from, to, { recursive: true }));
  }
  return target;
}

/** The sample, and a model of that name made from it by plain truncation of a few layers: that takes seconds. */
export async function addCompressedModel(folder: string, name: string): Promise<void> {
  const sample = await addSampleModel(folder);
  const args = ['-m', 'bondwise', 'tensorize', sample, '--layers', 're:model\\.layers\\.2[0-3]\\..*(q|gate)_proj', '--keep', '30%', '--output', path.join(folder, name), '--run', path.join(folder, '.bondwise/tensorize')];
  await promisify(execFile)(await enginePython(), args, { cwd: folder, env: { ...process.env, PYTHONPATH: path.join(projectRoot, 'engine') } });
}

/** The interpreter that has the engine's packages. */
export async function enginePython(): Promise<string> {
  return process.env.BONDWISE_TEST_PYTHON ?? prepare.python();
}

/** Status of every run of a workspace, by directory name. */
export async function readRuns(folder: string): Promise<Map<string, RunStatus>> {
  const root = path.join(folder, '.bondwise/runs');
  const statuses = new Map<string, RunStatus>();
  for (const name of await readdir(root).catch(() => [])) {
    const text = await readFile(path.join(root, name, 'status.json'), 'utf8').catch(() => undefined);
    const status: unknown = text === undefined ? undefined : JSON.parse(text);
    if (isRunStatus(status)) {
      statuses.set(name, status);
    }
  }
  return statuses;
}

/** Waits until the only run of a workspace satisfies `until`. Throws when it has ended otherwise. */
export async function waitForRun(folder: string, until: (status: RunStatus) => boolean, timeout: number): Promise<RunStatus> {
  const start = Date.now();
  let last: RunStatus | undefined;
  while (Date.now() < start + (last === undefined ? Math.min(timeout, 60_000) : timeout)) {
    [last] = (await readRuns(folder)).values();
    if (last !== undefined && until(last)) {
      return last;
    }
    if (last?.state === 'failed') {
      break;
    }
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  throw new Error(`the run did not come so far: ${JSON.stringify(last)}`);
}

/** Looks again and again until it is so. */
export async function eventually(isSo: () => Promise<boolean>, timeout: number, what: string): Promise<void> {
  for (const deadline = Date.now() + timeout; !(await isSo()); ) {
    if (Date.now() > deadline) {
      throw new Error(`not within ${timeout / 1000} s: ${what}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

/** Runs live in sessions of their own and outlast the server, as they should: a failed test must not leave them. */
async function killRuns(folder: string): Promise<void> {
  for (const { process: identity } of (await readRuns(folder)).values()) {
    if (identity && (await isAlive(identity))) {
      process.kill(-identity.pid, 'SIGKILL');
    }
  }
}
