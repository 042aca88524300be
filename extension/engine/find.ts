/** Finding a Python that can run the engine, and saying in words why each candidate cannot. */
import { readdir, stat } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { execa } from 'execa';
import { t } from '../l10n/text.ts';
import { bondwiseHome, environmentDirectory, type Lock, MARKER, pythonIn } from './home.ts';

export type Source = 'setting' | 'bondwise' | 'python-extension' | 'path';

/** A Python that runs the engine, and where the engine's source is. */
export interface Environment {
  readonly python: string;
  /** `3.11.7` */
  readonly version: string;
  readonly source: Source;
  readonly engineDir: string;
  /** BONDWISE_HOME for the engine's own locks. */
  readonly home: string;
}

export interface Attempt {
  readonly source: Source;
  /** The interpreter, or the folder where one was expected. */
  readonly candidate: string;
  /** Why it cannot be used, in words. */
  readonly reason: string;
}

/** No candidate will do. */
export interface Missing {
  readonly python: undefined;
  readonly tried: readonly Attempt[];
}

export interface FindOptions {
  /** The folder that holds the package `bondwise` and the lock files. */
  readonly engineDir: string;
  /** An interpreter that the user named. When it cannot be used nothing else is taken in its place. */
  readonly setting?: string | undefined;
  readonly home?: string;
  readonly lock?: Lock;
  /** The interpreter that is chosen in the Python extension. */
  readonly pythonExtension?: () => Promise<string | undefined>;
  readonly env?: NodeJS.ProcessEnv;
}

const OLDEST: readonly [number, number] = [3, 11];
/** What the engine imports: engine/requirements.in. */
const ENGINE_MODULES = ['accelerate', 'gguf', 'numpy', 'psutil', 'pydantic', 'pygls', 'safetensors', 'tokenizers', 'torch', 'transformers'];
/** What its tests need on top: engine/requirements-dev.in. */
const TEST_MODULES = ['pyright', 'pytest', 'ruff', 'tensorly'];
/** Milliseconds. A cold disk or a home on a network takes its time. */
const PATIENCE = 30_000;

/** Runs on any Python, so that an old one can still say how old it is. Prints version and missing modules. */
const PROBE = `import sys, json
v = list(sys.version_info[:3])
m = []
if v >= [3, 4]:
    from importlib.util import find_spec
    m = [n for n in sys.argv[1:] if find_spec(n) is None]
print(json.dumps({"version": v, "missing": m}))`;

/** The first usable Python in the order: setting, our own environment, the Python extension's choice, `python3` on PATH. */
export async function findEnvironment(options: FindOptions): Promise<Environment | Missing> {
  const { engineDir, setting, pythonExtension, env = process.env, lock = 'requirements.lock' } = options;
  const home = options.home ?? bondwiseHome(env);
  const tried: Attempt[] = [];
  const tryOne = async (source: Source, candidate: string, python: string): Promise<Environment | undefined> => {
    const found = await checkEnvironment({ python, source, engineDir, home, lock, env });
    if (typeof found !== 'string') {
      return found;
    }
    tried.push({ source, candidate, reason: found });
    return undefined;
  };

  if (setting) {
    const python = expandHome(setting);
    return (await tryOne('setting', setting, python)) ?? { python: undefined, tried };
  }
  const own = await ownEnvironment(home, engineDir, lock);
  if ('reason' in own) {
    tried.push({ source: 'bondwise', candidate: own.directory, reason: own.reason });
  } else {
    const found = await tryOne('bondwise', own.directory, own.python);
    if (found) {
      return found;
    }
  }
  const chosen = await pythonExtension?.().catch(() => undefined);
  if (chosen) {
    const found = await tryOne('python-extension', chosen, chosen);
    if (found) {
      return found;
    }
  }
  const name = process.platform === 'win32' ? 'python' : 'python3';
  return (await tryOne('path', t('{0} on PATH', name), name)) ?? { python: undefined, tried };
}

/** One line for each candidate, for a log or a doctor's report. */
export function describeMissing(missing: Missing): string {
  const names: Record<Source, string> = {
    setting: t('the setting'),
    bondwise: t('Bondwise’s own environment'),
    'python-extension': t('the Python extension’s interpreter'),
    path: t('the system’s Python'),
  };
  return missing.tried.map(({ source, candidate, reason }) => `${names[source]} (${candidate}): ${reason}`).join('\n');
}

/** Variables for a process of the engine, on top of the present ones. */
export function engineVariables(environment: Pick<Environment, 'engineDir' | 'source' | 'home'>, env: NodeJS.ProcessEnv = process.env): NodeJS.ProcessEnv {
  // Another's Python may find its packages by PYTHONPATH, as on clusters; ours must not find what is not in the lock.
  const inherited = environment.source === 'bondwise' ? undefined : env.PYTHONPATH;
  return {
    PYTHONPATH: inherited ? `${environment.engineDir}${path.delimiter}${inherited}` : environment.engineDir,
    PYTHONHOME: environment.source === 'bondwise' ? undefined : env.PYTHONHOME,
    PYTHONUTF8: '1',
    BONDWISE_HOME: environment.home,
  };
}

/**
 * The interpreter's arguments for an engine command. `-P` keeps the working directory off the module path: a file `torch.py` or a folder
 * `bondwise` in a workspace must not run.
 */
export function engineArguments(args: readonly string[]): string[] {
  return ['-P', '-u', '-m', 'bondwise', ...args];
}

export interface Candidate extends Omit<Environment, 'version'> {
  readonly lock: Lock;
  readonly env: NodeJS.ProcessEnv;
}

const answers = new Map<string, string>();

/** Asks a Python for its version and packages. @returns the environment, or why it cannot be used, in words. */
export async function checkEnvironment({ lock, env, ...candidate }: Candidate): Promise<Environment | string> {
  const modules = lock === 'requirements-dev.lock' ? [...ENGINE_MODULES, ...TEST_MODULES] : ENGINE_MODULES;
  // A good answer is kept until the interpreter or its packages change.
  const key = JSON.stringify([candidate, modules, env.PATH, env.PYTHONPATH, await stampOf(candidate.python)]);
  const kept = answers.get(key);
  if (kept !== undefined) {
    return { ...candidate, version: kept };
  }
  const answer = await probe(candidate, modules, env);
  if (typeof answer === 'string') {
    return answer;
  }
  answers.set(key, answer.version);
  return { ...candidate, version: answer.version };
}

async function probe(candidate: Omit<Environment, 'version'>, modules: readonly string[], inherited: NodeJS.ProcessEnv): Promise<{ readonly version: string } | string> {
  const { stdout, stderr, exitCode, timedOut, code } = await execa(candidate.python, ['-c', PROBE, ...modules], {
    cwd: candidate.engineDir,
    env: { ...inherited, ...engineVariables(candidate, inherited) },
    extendEnv: false,
    reject: false,
    stdin: 'ignore',
    timeout: PATIENCE,
  });
  if (timedOut) {
    return t('it did not answer within {0} seconds', PATIENCE / 1000);
  }
  if (code === 'ENOENT') {
    return t('there is no such program');
  }
  if (exitCode !== 0) {
    return t('it does not run: {0}', lastLine(stderr) ?? code ?? t('exit status {0}', exitCode ?? 'unknown'));
  }
  const answer = parseAnswer(stdout);
  if (!answer) {
    return t('it is not a Python that Bondwise understands: it printed {0}', JSON.stringify(stdout.slice(0, 80)));
  }
  const version = answer.version.join('.');
  const [major = 0, minor = 0] = answer.version;
  if (major < OLDEST[0] || (major === OLDEST[0] && minor < OLDEST[1])) {
    return t('it is Python {0}; Bondwise needs {1} or newer', version, OLDEST.join('.'));
  }
  if (answer.missing.length > 0) {
    return t('Python {0} lacks {1}', version, answer.missing.join(', '));
  }
  return { version };
}

function parseAnswer(stdout: string): { version: number[]; missing: string[] } | undefined {
  try {
    const value: unknown = JSON.parse(lastLine(stdout) ?? '');
    if (typeof value === 'object' && value !== null && 'version' in value && 'missing' in value) {
      const { version, missing } = value;
      const isNumbers = Array.isArray(version) && version.every((part): part is number => typeof part === 'number');
      const isNames = Array.isArray(missing) && missing.every((part): part is string => typeof part === 'string');
      return isNumbers && isNames ? { version, missing } : undefined;
    }
  } catch {
    // Another program that happens to be called python.
  }
  return undefined;
}

type Own = { readonly directory: string; readonly python: string } | { readonly directory: string; readonly reason: string };

async function ownEnvironment(home: string, engineDir: string, lock: Lock): Promise<Own> {
  const directory = await environmentDirectory(home, engineDir, lock);
  if (await exists(path.join(directory, MARKER))) {
    return { directory, python: pythonIn(directory) };
  }
  return { directory, reason: (await exists(directory)) ? t('its set-up was not finished') : t('it has not been set up yet') };
}

async function exists(file: string): Promise<boolean> {
  return stat(file).then(
    () => true,
    () => false,
  );
}

/** Changes when packages come or go: installers touch the folder of packages. */
async function stampOf(python: string): Promise<string> {
  const root = path.dirname(path.dirname(python));
  const folders = [python, root, ...(await readdir(path.join(root, 'lib')).catch(() => [])).map(name => path.join(root, 'lib', name, 'site-packages'))];
  const times = await Promise.all(folders.map(folder => stat(folder).then(found => found.mtimeMs, () => 0)));
  return times.join(' ');
}

function expandHome(file: string): string {
  return file.startsWith('~/') || file.startsWith('~\\') ? path.join(os.homedir(), file.slice(2)) : file;
}

function lastLine(text: string): string | undefined {
  const line = text.trim().split('\n').at(-1)?.trim();
  return line === '' ? undefined : line;
}
