/** Making run directories and taking them away. */
import { randomBytes } from 'node:crypto';
import { mkdir, rename, rm } from 'node:fs/promises';
import path from 'node:path';
import { t } from '../l10n/text.ts';
import { isRunRequest } from '../protocol/validate.js';
import type { RunRequest, RunStatus } from '../protocol/types.ts';
import { reasonOf, replaceJson } from './files.ts';
import { isActive, type Run, type RunKind } from './run.ts';

/**
 * Makes a run directory that waits to be started: complete, or not there at all.
 * @param root the folder of runs; made when missing.
 * @returns the directory.
 * @throws when the request does not follow the schema, or the folder cannot be written.
 */
export async function createRun(root: string, request: RunRequest): Promise<string> {
  const checked: unknown = request;
  if (!isRunRequest(checked)) {
    throw new Error(t('The request cannot be run: {0}', reasonOf(isRunRequest)));
  }
  const now = new Date();
  const id = runId(request.kind, now);
  const temporary = path.join(root, `.new-${id}`);
  await mkdir(path.join(temporary, 'checkpoints'), { recursive: true });
  await replaceJson(path.join(temporary, 'run.json'), request);
  await replaceJson(path.join(temporary, 'status.json'), { version: 1, state: 'queued', updated: now.toISOString() } satisfies RunStatus);
  const directory = path.join(root, id);
  await rename(temporary, directory);
  return directory;
}

/** The same request in a new directory. Relative paths still point to the same places: the directories are siblings. */
export async function runAgain(run: Run): Promise<string> {
  if (!run.request) {
    throw new Error(t('{0} has no readable run.json: there is nothing to run again.', run.id));
  }
  return createRun(path.dirname(run.directory), { ...run.request, created: new Date().toISOString() });
}

/** Takes the directory away, not what the run has made elsewhere. @throws while the run is active. */
export async function deleteRun(run: Run): Promise<void> {
  if (isActive(run.state)) {
    throw new Error(t('“{0}” is still at work. Cancel it first.', run.title));
  }
  // Renamed first: a removal that is cut short must not leave half a run in the list.
  const condemned = path.join(path.dirname(run.directory), `.deleted-${run.id}-${randomBytes(3).toString('hex')}`);
  await rename(run.directory, condemned);
  await rm(condemned, { recursive: true, force: true });
}

/** `20260131-235959-tensorize-a1b2c3`: the time is UTC. */
export function runId(kind: RunKind, now: Date): string {
  const [day = '', time = ''] = now.toISOString().split('T');
  return `${day.replaceAll('-', '')}-${time.slice(0, 8).replaceAll(':', '')}-${kind}-${randomBytes(3).toString('hex')}`;
}
