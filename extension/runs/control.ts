/** Stopping a run, taking it up again, and seeing that its process is gone. */
import { readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { t } from '../l10n/text.ts';
import { isRunStatus } from '../protocol/validate.js';
import type { ProcessIdentity, RunStatus } from '../protocol/types.ts';
import { readJson, replaceJson } from './files.ts';
import { isAlive, isIdentity, isRemote, REMOTE_SILENCE, signalGroup } from './process.ts';
import { isActive, type Run } from './run.ts';

/** A run without a recorded process counts as interrupted after this many milliseconds. */
export const START_GRACE = 30_000;

/** Milliseconds that the process of a run that has ended may still take to be gone, and between two looks. */
const LEAVING = 15_000;
const LEAVING_INTERVAL = 200;

/**
 * Holds the identity of the process that was started on the run. It counts until the engine has written its own into the status, which on
 * a cold disk can take longer than the grace.
 */
const LAUNCH = 'launch.json';

/** Its presence asks a healing to validate, stop, and keep what was best. It stays: a run that is resumed ends there too. */
export const FINISH = 'finish';

export interface CancelOptions {
  /** Milliseconds from the file to SIGTERM, and again from SIGTERM to SIGKILL. */
  readonly grace?: number;
  /** Milliseconds between looks. */
  readonly interval?: number;
}

/**
 * Asks the engine to stop, then makes it: the file `cancel`, after a grace SIGTERM to the process group, after another SIGKILL.
 * Resolves when the run has ended and its status says how. A process of another host gets the file only.
 */
export async function cancelRun(run: Pick<Run, 'directory'>, { grace = 5000, interval = 100 }: CancelOptions = {}): Promise<void> {
  const { directory } = run;
  const first = await readStatus(directory);
  if (first && !isActive(first.state)) {
    return;
  }
  await writeFile(path.join(directory, 'cancel'), '');
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    const ended = await waitForEnd(directory, grace, interval);
    if (ended) {
      return;
    }
    const worker = await workerOf(directory, await readStatus(directory));
    if (worker) {
      await signalGroup(worker, signal);
    }
  }
  await waitForEnd(directory, grace, interval);
}

/** Asks a healing to end at its next step with the best that it has. */
export async function finishRun(run: Pick<Run, 'directory'>): Promise<void> {
  await writeFile(path.join(run.directory, FINISH), '');
}

/**
 * Starts an interrupted, cancelled or failed run again in the same directory: it goes on from its checkpoints.
 * @param launch starts the engine on a directory (`extension/engine/launch.ts`).
 * @throws when a process still works on it.
 */
export async function resumeRun(run: Pick<Run, 'directory' | 'title'>, launch: (directory: string) => Promise<void>, patience = LEAVING): Promise<void> {
  const status = await readStatus(run.directory);
  if (status && isActive(status.state) && !(await isAbandoned(run.directory, status))) {
    throw new Error(t('“{0}” is still at work. Cancel it first.', run.title));
  }
  // It tells its end before it has given back all that it held.
  const end = performance.now() + patience;
  while (status?.process && (await livesStill(status.process, status))) {
    if (performance.now() >= end) {
      throw new Error(t('“{0}”: its process {1} has not ended yet. Try again in a moment.', run.title, status.process.pid));
    }
    await sleep(LEAVING_INTERVAL);
  }
  await rm(path.join(run.directory, 'cancel'), { force: true });
  await launch(run.directory);
}

/** Records who was started on a run; undefined: nobody yet. */
export async function recordLaunch(directory: string, identity: ProcessIdentity | undefined): Promise<void> {
  const file = path.join(directory, LAUNCH);
  await (identity ? replaceJson(file, identity) : rm(file, { force: true }));
}

/** True when an active run has no live process any more and will not get one. */
export async function isAbandoned(directory: string, status: RunStatus, now = Date.now()): Promise<boolean> {
  if (!isActive(status.state)) {
    return false;
  }
  if (status.process) {
    return !(await livesStill(status.process, status, now));
  }
  // Within the grace whoever started a process that died at once can still say why.
  if (now - Date.parse(status.updated) <= START_GRACE) {
    return false;
  }
  const launched = await workerOf(directory, status);
  return !(launched && (await livesStill(launched, status, now)));
}

/**
 * Writes down that the process of a run is gone: `cancelled` when that was asked for, else `interrupted`.
 * Nothing is written when the status changed since it was read, because then somebody knew better.
 * @param seen the text of status.json that the judgement rests on.
 */
export async function settleAbandoned(directory: string, seen: string, cancelled: boolean): Promise<boolean> {
  const file = path.join(directory, 'status.json');
  const current = await readJson(file, isRunStatus);
  if (!current || 'problem' in current || current.text !== seen) {
    return false;
  }
  const error = {
    message: current.value.process ? 'The engine’s process ended without saying why.' : 'The engine was not started, or died before its first word.',
    remedy: 'Resume the run; if it stops again, its log.txt says more. A process that ends like this was often killed for lack of memory.',
  };
  const settled: RunStatus = {
    ...current.value,
    state: cancelled ? 'cancelled' : 'interrupted',
    updated: new Date().toISOString(),
    progress: null,
    error: cancelled ? null : error,
  };
  await replaceJson(file, settled);
  return true;
}

/** Waits until the status says that the run has ended, or its process is gone and that is written down. */
async function waitForEnd(directory: string, patience: number, interval: number): Promise<boolean> {
  const end = performance.now() + patience;
  for (;;) {
    const read = await readJson(path.join(directory, 'status.json'), isRunStatus);
    if (!read) {
      return true;
    }
    if (!('problem' in read)) {
      const { value: status, text } = read;
      if (!isActive(status.state)) {
        return true;
      }
      // A run that nothing was started for has nobody who could answer.
      const worker = await workerOf(directory, status);
      const gone = worker ? !(await livesStill(worker, status)) : performance.now() >= end;
      if (gone) {
        if (worker) {
          // Others of its group that outlived their leader.
          await signalGroup(worker, 'SIGKILL');
        }
        if (await settleAbandoned(directory, text, true)) {
          return true;
        }
      }
    }
    if (performance.now() >= end) {
      return false;
    }
    await sleep(Math.min(interval, Math.max(1, end - performance.now())));
  }
}

async function readStatus(directory: string): Promise<RunStatus | undefined> {
  const read = await readJson(path.join(directory, 'status.json'), isRunStatus);
  return read && 'value' in read ? read.value : undefined;
}

/** Whom the status names, else who was started. */
async function workerOf(directory: string, status: RunStatus | undefined): Promise<ProcessIdentity | undefined> {
  if (status?.process) {
    return status.process;
  }
  try {
    const value: unknown = JSON.parse(await readFile(path.join(directory, LAUNCH), 'utf8'));
    return isIdentity(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

async function livesStill(identity: ProcessIdentity, status: RunStatus, now = Date.now()): Promise<boolean> {
  return isRemote(identity) ? now - Date.parse(status.updated) < REMOTE_SILENCE : isAlive(identity);
}
