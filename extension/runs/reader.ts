/** One run directory, read again and again: only what changed is read, and only as far as it is new. */
import { stat } from 'node:fs/promises';
import path from 'node:path';
import { t } from '../l10n/text.ts';
import { isRunRequest, isRunResult, isRunStatus, type Validator } from '../protocol/validate.js';
import type { RunRequest, RunResult, RunStatus } from '../protocol/types.ts';
import { FINISH, isAbandoned, settleAbandoned } from './control.ts';
import { type Read, readJson } from './files.ts';
import { Journal } from './journal.ts';
import { isActive, type Run, type RunState } from './run.ts';

export class RunReader {
  readonly directory: string;
  readonly #request: CachedFile<RunRequest>;
  readonly #status: CachedFile<RunStatus>;
  readonly #result: CachedFile<RunResult>;
  readonly #journal: Journal;
  #run: Run | undefined;
  #finishing = false;
  #reading: Promise<Run | undefined> | undefined;

  constructor(directory: string) {
    this.directory = directory;
    this.#request = new CachedFile(path.join(directory, 'run.json'), isRunRequest);
    this.#status = new CachedFile(path.join(directory, 'status.json'), isRunStatus);
    this.#result = new CachedFile(path.join(directory, 'result.json'), isRunResult);
    this.#journal = new Journal(path.join(directory, 'events.ndjson'));
  }

  /** The last snapshot. */
  get run(): Run | undefined {
    return this.#run;
  }

  /**
   * Looks at the directory. Calls at the same time share one look.
   * @returns the same object as before when nothing changed; undefined when this is not (or no longer) a run directory.
   */
  async read(): Promise<Run | undefined> {
    this.#reading ??= this.#read().finally(() => {
      this.#reading = undefined;
    });
    return this.#reading;
  }

  async #read(): Promise<Run | undefined> {
    const ended = this.#run !== undefined && this.#run.state !== 'invalid' && !isActive(this.#run.state);
    const statusChanged = await this.#status.refresh();
    if (ended && !statusChanged && this.#status.read) {
      return this.#run;
    }
    // The status before the journal: what a status says has happened is in the journal by then.
    const changed = [statusChanged, await this.#request.refresh(), await this.#result.refresh(), await this.#journal.read()];
    const finishing = await exists(path.join(this.directory, FINISH));
    changed.push(finishing !== this.#finishing);
    this.#finishing = finishing;
    if (!this.#request.read && !this.#status.read && this.#journal.summary.seq === 0) {
      this.#run = undefined;
      return undefined;
    }
    const status = this.#status.read;
    if (status && 'value' in status && (await isAbandoned(this.directory, status.value))) {
      const cancelled = await exists(path.join(this.directory, 'cancel'));
      if (await settleAbandoned(this.directory, status.text, cancelled).catch(() => false)) {
        changed.push(await this.#status.refresh());
      }
    }
    if (!this.#run || changed.includes(true)) {
      this.#run = { ...snapshot(this.directory, this.#request.read, this.#status.read, this.#result.read, this.#journal), ...(finishing && { finishing }) };
    }
    return this.#run;
  }
}

/** A JSON file that is read again only when the file behind the name is another. */
class CachedFile<T> {
  readonly #file: string;
  readonly #isValid: Validator<T>;
  #stamp: string | undefined;
  read: Read<T>;

  constructor(file: string, isValid: Validator<T>) {
    this.#file = file;
    this.#isValid = isValid;
  }

  async refresh(): Promise<boolean> {
    const stamp = await stat(this.#file, { bigint: true }).then(
      found => `${found.dev}:${found.ino}:${found.size}:${found.mtimeNs}`,
      () => undefined,
    );
    if (stamp === this.#stamp) {
      return false;
    }
    this.read = stamp === undefined ? undefined : await readJson(this.#file, this.#isValid);
    this.#stamp = stamp;
    return true;
  }
}

function snapshot(directory: string, request: Read<RunRequest>, status: Read<RunStatus>, result: Read<RunResult>, journal: Journal): Run {
  const id = path.basename(directory);
  const asked = valueOf(request);
  const stands = valueOf(status);
  const made = valueOf(result);
  const problem = request === undefined ? t('run.json is missing') : (problemOf(request) ?? problemOf(status) ?? problemOf(result) ?? journal.problem);
  const state: RunState = asked === undefined || problemOf(status) !== undefined ? 'invalid' : (stands?.state ?? 'queued');
  return {
    id,
    directory,
    state,
    title: asked?.title ?? id,
    created: asked?.created ?? '',
    summary: journal.summary,
    ...(asked && { request: asked }),
    ...(stands && { status: stands }),
    ...(made && !isActive(state) && { result: made }),
    ...(problem !== undefined && { problem }),
  };
}

function valueOf<T>(read: Read<T>): T | undefined {
  return read && 'value' in read ? read.value : undefined;
}

function problemOf<T>(read: Read<T>): string | undefined {
  return read && 'problem' in read ? read.problem : undefined;
}

async function exists(file: string): Promise<boolean> {
  return stat(file).then(
    () => true,
    () => false,
  );
}
