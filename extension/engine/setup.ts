/** Making the engine's environment: from the lock, with hashes, in a folder of Bondwise's own. */
import { mkdir, readdir, readFile, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import { t } from '../l10n/text.ts';
import { bondwiseHome, environmentDirectory, type Lock, MARKER, pythonIn } from './home.ts';
import { type ChildOptions, runChild } from './children.ts';
import { checkEnvironment, type Environment } from './find.ts';
import { type Guard, holdFolder } from './guard.ts';
import { downloadSize } from './sizes.ts';
import { announced, readUvLine, UV_START, uvFailure, type UvState } from './uv-output.ts';
import { ensureUv, SetUpError, uvVariables } from './uv.ts';
import { replaceJson } from '../runs/files.ts';

export interface SetUpProgress {
  /** What is being done, in words. */
  readonly phase: string;
  /** Seconds since the start. */
  readonly elapsed: number;
  /** Packages in the environment, once known. */
  readonly packages?: number;
  /** Of what must be downloaded; within a large package estimated from what is unpacked. */
  readonly bytes?: { readonly done: number; readonly total: number };
  /** Bytes a second. */
  readonly rate?: number;
  /** Seconds left of the download. */
  readonly eta?: number;
}

export interface SetUpOptions {
  readonly engineDir: string;
  readonly home?: string;
  readonly lock?: Lock;
  readonly onProgress?: (progress: SetUpProgress) => void;
  /** Ends the set-up at once, with everything it has started. */
  readonly signal?: AbortSignal;
  /** Makes the environment anew even when it looks whole. Not while the engine runs in it. */
  readonly repair?: boolean;
  readonly env?: NodeJS.ProcessEnv;
}

/** Pythons that every package of the lock has a wheel for. */
const PYTHON = '>=3.11,<3.15';
/** Milliseconds between two reports, and between two looks at the cache. */
const REPORT = 500;
const LOOK = 1500;

/**
 * Makes the environment of a lock, or returns the one that is there and works. Any number of processes may ask at the same time: one works,
 * the others wait for it. An environment counts as made when its marker is there, which is written last.
 * @throws SetUpError with what to do; the signal's reason when it was aborted.
 */
export async function setUpEnvironment(options: SetUpOptions): Promise<Environment> {
  const { engineDir, lock = 'requirements.lock', signal, repair = false, env = process.env } = options;
  const home = options.home ?? bondwiseHome(env);
  const directory = await environmentDirectory(home, engineDir, lock);
  const whole = async (): Promise<Environment | undefined> => {
    const marked = await readFile(path.join(directory, MARKER)).then(() => true, () => false);
    const checked = marked ? await checkEnvironment({ python: pythonIn(directory), source: 'bondwise', engineDir, home, lock, env }) : '';
    return typeof checked === 'string' ? undefined : checked;
  };
  const present = repair ? undefined : await whole();
  if (present) {
    return present;
  }
  const report = new Report(options.onProgress);
  const guard = await holdFolder(path.join(home, 'setup'), signal, holder => report.wait(t('Waiting for the set-up in process {0}', holder.pid)));
  try {
    // Somebody else may have made it while we waited; that is as good as a repair by us.
    const made = repair && !report.waited ? undefined : await whole();
    return made ?? (await build({ ...options, engineDir, home, lock, env, directory, guard, report }));
  } finally {
    report.end();
    await guard.release();
  }
}

interface Build extends SetUpOptions {
  readonly home: string;
  readonly lock: Lock;
  readonly env: NodeJS.ProcessEnv;
  readonly directory: string;
  readonly guard: Guard;
  readonly report: Report;
}

async function build({ engineDir, home, lock, env, directory, guard, report, signal }: Build): Promise<Environment> {
  report.phase(t('Getting uv'));
  const variables = await uvVariables(env);
  const child: ChildOptions = { cwd: home, env: variables, signal, onStart: identity => guard.setChild(identity) };
  const uv = await ensureUv(home, variables, child);

  report.phase(t('Making the environment'));
  await remove(directory);
  await mkdir(home, { recursive: true });
  const python = pythonIn(directory);
  try {
    const venv = await runChild(uv, ['venv', '--no-project', '--python', PYTHON, directory], child);
    if (!venv.ok) {
      throw new SetUpError(t('No Python {0} could be found or fetched.\n{1}', PYTHON, uvFailure(venv.output)), t('Install Python 3.11 or newer, then try again.'));
    }

    await install({ uv, python, child, report, engineDir, lock });

    report.phase(t('Trying it out'));
    const tried = await runChild(python, ['-I', '-c', 'import torch'], child);
    const checked = await checkEnvironment({ python, source: 'bondwise', engineDir, home, lock, env });
    if (!tried.ok || typeof checked === 'string') {
      const reason = tried.ok && typeof checked === 'string' ? checked : (tried.output.trim().split('\n').at(-1) ?? tried.how);
      throw new SetUpError(t('The environment was made but does not work: {0}', reason), t('Try the set-up again; if it stays so, set an interpreter of your own in the settings.'));
    }
    await replaceJson(path.join(directory, MARKER), { lock, made: new Date().toISOString() });
    return checked;
  } catch (error) {
    // Gigabytes that nobody can use; what was downloaded stays in uv's cache. That they cannot be removed is not what went wrong.
    await remove(directory).catch(() => undefined);
    throw error;
  }
}

/** The marker goes first: what is half removed must not look whole. */
async function remove(directory: string): Promise<void> {
  await rm(path.join(directory, MARKER), { force: true });
  await rm(directory, { recursive: true, force: true, maxRetries: 3 });
}

interface Install {
  readonly uv: string;
  readonly python: string;
  readonly child: ChildOptions;
  readonly report: Report;
  readonly engineDir: string;
  readonly lock: Lock;
}

async function install({ uv, python, child, report, engineDir, lock }: Install): Promise<void> {
  report.phase(t('Finding the packages'));
  const begun = Date.now();
  const cache = (await runChild(uv, ['cache', 'dir'], { ...child, onLine: () => undefined })).output.trim();
  // The tests' lock is not measured; it is the engine's and a little more, so the same share of packed to unpacked bytes holds.
  const size = (await downloadSize(engineDir, lock)) ?? (await downloadSize(engineDir, 'requirements.lock'));
  let state = UV_START;
  const look = setInterval(() => {
    // Packages are unpacked as they come, so what lies there tells how far the unfinished ones are.
    if (size && state.loading.size > 0) {
      void unpackedSince(cache, begun).then(bytes => report.download(state, (bytes * size.download) / size.installed));
    }
  }, LOOK);
  try {
    // The lock is whole: what it leaves out of a package's own wishes is left out on purpose.
    const arguments_ = ['pip', 'install', '--python', python, '--no-deps', '--require-hashes', '--only-binary', ':all:', '-r', path.join(engineDir, lock)];
    const onLine = (line: string): void => {
      state = readUvLine(state, line);
      report.download(state);
    };
    const { ok, output, how } = await runChild(uv, arguments_, { ...child, onLine });
    if (!ok) {
      throw failure(output, how, size?.installed);
    }
  } finally {
    clearInterval(look);
  }
}

function failure(output: string, how: string, needed: number | undefined): SetUpError {
  if (/No space left on device|os error 28\b|not enough space/i.test(output)) {
    const room = needed === undefined ? t('several gigabytes') : t('{0} GB', (needed / 1e9).toFixed(1));
    return new SetUpError(t('The disk is full.\n{0}', uvFailure(output)), t('Make room for {0}, or set BONDWISE_HOME and UV_CACHE_DIR to a larger disk, then try again.', room));
  }
  const text = uvFailure(output);
  return new SetUpError(t('The packages could not be installed ({0}).\n{1}', how, text), t('Check the network and the package index, then try again: what was downloaded is kept.'));
}

/** Collects what is known and tells it, at most every half second and at each new phase. */
class Report {
  readonly #tell: ((progress: SetUpProgress) => void) | undefined;
  readonly #start = performance.now();
  readonly #timer: NodeJS.Timeout | undefined;
  #progress: Omit<SetUpProgress, 'elapsed'> = { phase: '' };
  #downloading: number | undefined;
  waited = false;

  constructor(tell: ((progress: SetUpProgress) => void) | undefined) {
    this.#tell = tell;
    if (tell) {
      this.#timer = setInterval(() => this.#now(), REPORT);
      this.#timer.unref();
    }
  }

  phase(phase: string): void {
    if (phase !== this.#progress.phase) {
      this.#progress = { phase };
      this.#now();
    }
  }

  /** For another process that sets up the same. */
  wait(phase: string): void {
    this.waited = true;
    this.phase(phase);
  }

  /** @param unpacked estimate of the bytes that have come of the unfinished downloads. */
  download(state: UvState, unpacked = 0): void {
    const total = announced(state);
    const isInstalling = state.stage === 'installing' || state.stage === 'installed';
    if (isInstalling || total > 0) {
      this.phase(isInstalling ? t('Installing') : t('Downloading'));
    }
    if (state.packages !== undefined) {
      this.#progress = { ...this.#progress, packages: state.packages };
    }
    if (isInstalling || total === 0) {
      return;
    }
    this.#downloading ??= performance.now();
    const coming = Math.min(unpacked, 0.99 * (total - state.loaded));
    const done = Math.max(state.loaded + coming, this.#progress.bytes?.done ?? 0);
    const seconds = (performance.now() - this.#downloading) / 1000;
    const rate = seconds > 1 && done > 0 ? done / seconds : undefined;
    this.#progress = { ...this.#progress, bytes: { done, total }, ...(rate && { rate, eta: (total - done) / rate }) };
  }

  end(): void {
    clearInterval(this.#timer);
  }

  #now(): void {
    if (this.#progress.phase !== '') {
      this.#tell?.({ ...this.#progress, elapsed: (performance.now() - this.#start) / 1000 });
    }
  }
}

/** Bytes in uv's temporary folders that were begun after a time (milliseconds since 1970). */
async function unpackedSince(cache: string, begun: number): Promise<number> {
  let bytes = 0;
  for (const name of await readdir(cache).catch(() => [])) {
    const folder = path.join(cache, name);
    const found = name.startsWith('.tmp') ? await stat(folder).catch(() => undefined) : undefined;
    if (found && found.birthtimeMs >= begun) {
      const entries = await readdir(folder, { recursive: true, withFileTypes: true }).catch(() => []);
      const sizes = await Promise.all(
        entries.filter(entry => entry.isFile()).map(entry => stat(path.join(entry.parentPath, entry.name)).then(({ size }) => size, () => 0)),
      );
      bytes = sizes.reduce((sum, size) => sum + size, bytes);
    }
  }
  return bytes;
}
