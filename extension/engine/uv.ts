/** Getting uv: the one on PATH, else one of our own from the package index. */
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { execa } from 'execa';
import { t } from '../l10n/text.ts';
import { type ChildOptions, runChild } from './children.ts';
import { MARKER, pythonIn } from './home.ts';

/** Older ones do not read a universal lock's markers and hashes the same way. */
const OLDEST_UV: readonly [number, number] = [0, 5];
const PYTHONS = process.platform === 'win32' ? ['python', 'py'] : ['python3', 'python3.14', 'python3.13', 'python3.12', 'python3.11', 'python'];

export class SetUpError extends Error {
  readonly remedy: string;

  constructor(message: string, remedy: string) {
    super(message);
    this.name = 'SetUpError';
    this.remedy = remedy;
  }
}

/**
 * The command that runs uv. When PATH has none that is new enough, one is installed under `home/bootstrap` with the pip of whatever Python
 * there is: it touches nothing outside.
 * @throws SetUpError when neither uv nor a Python with pip or venv is there.
 */
export async function ensureUv(home: string, env: NodeJS.ProcessEnv, child: ChildOptions): Promise<string> {
  if (await isNewEnough('uv', env)) {
    return 'uv';
  }
  const bootstrap = path.join(home, 'bootstrap');
  const own = await ownUv(bootstrap, env);
  if (own) {
    return own;
  }
  const troubles: string[] = [];
  for (const python of await presentPythons(env)) {
    for (const attempt of [byTarget, byVenv]) {
      await rm(bootstrap, { recursive: true, force: true });
      await mkdir(bootstrap, { recursive: true });
      const trouble = await attempt(python, bootstrap, { ...child, env });
      const made = trouble === undefined ? await locate(bootstrap, env) : undefined;
      if (made) {
        await writeFile(path.join(bootstrap, MARKER), made);
        return made;
      }
      troubles.push(`${python}: ${trouble ?? t('uv was installed but does not run')}`);
    }
  }
  await rm(bootstrap, { recursive: true, force: true });
  throw new SetUpError(
    troubles.length === 0 ? t('Neither uv nor Python is on PATH.') : t('uv could not be installed.\n{0}', troubles.join('\n')),
    t('Install Python 3.11 or newer with pip, or uv itself, check that the package index can be reached, then try again.'),
  );
}

async function ownUv(bootstrap: string, env: NodeJS.ProcessEnv): Promise<string | undefined> {
  const made = await readFile(path.join(bootstrap, MARKER), 'utf8').catch(() => undefined);
  return made && (await isNewEnough(made, env)) ? made : undefined;
}

async function byTarget(python: string, bootstrap: string, child: ChildOptions): Promise<string | undefined> {
  const arguments_ = ['-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', '--no-input', '--only-binary', ':all:', '--target', bootstrap];
  const { ok, output, how } = await runChild(python, [...arguments_, `uv>=${OLDEST_UV.join('.')}`], child);
  return ok ? undefined : (lastLines(output) ?? how);
}

/** For a Python without pip of its own: an environment brings one along. */
async function byVenv(python: string, bootstrap: string, child: ChildOptions): Promise<string | undefined> {
  const { ok, output, how } = await runChild(python, ['-m', 'venv', bootstrap], child);
  if (!ok) {
    return lastLines(output) ?? how;
  }
  const installed = await runChild(pythonIn(bootstrap), ['-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', '--no-input', `uv>=${OLDEST_UV.join('.')}`], child);
  return installed.ok ? undefined : (lastLines(installed.output) ?? installed.how);
}

async function locate(bootstrap: string, env: NodeJS.ProcessEnv): Promise<string | undefined> {
  for (const name of ['bin/uv', 'Scripts/uv.exe', 'bin/uv.exe']) {
    const program = path.join(bootstrap, name);
    if (await isNewEnough(program, env)) {
      return program;
    }
  }
  return undefined;
}

async function isNewEnough(program: string, env: NodeJS.ProcessEnv): Promise<boolean> {
  const { stdout, failed } = await execa(program, ['--version'], { env, extendEnv: false, reject: false, stdin: 'ignore', timeout: 30_000 });
  const found = failed ? null : /^uv (\d+)\.(\d+)/.exec(stdout);
  const [major, minor] = [Number(found?.[1] ?? -1), Number(found?.[2] ?? -1)];
  return major > OLDEST_UV[0] || (major === OLDEST_UV[0] && minor >= OLDEST_UV[1]);
}

async function presentPythons(env: NodeJS.ProcessEnv): Promise<string[]> {
  const present: string[] = [];
  const seen = new Set<string>();
  for (const name of PYTHONS) {
    const { stdout, failed } = await execa(name, ['-c', 'import sys; print(sys.executable)'], { env, extendEnv: false, reject: false, stdin: 'ignore', timeout: 30_000 });
    if (!failed && !seen.has(stdout.trim())) {
      seen.add(stdout.trim());
      present.push(name);
    }
  }
  return present;
}

/**
 * Variables for uv from the user's settings for pip, which uv does not read: many a company's package index is only set there.
 * What is set for uv itself goes first.
 */
export async function uvVariables(env: NodeJS.ProcessEnv): Promise<NodeJS.ProcessEnv> {
  const pip = await pipSettings(env);
  const index = env.UV_DEFAULT_INDEX ?? env.UV_INDEX_URL ?? env.PIP_INDEX_URL ?? pip.get('index-url');
  const certificates = env.SSL_CERT_FILE ?? env.PIP_CERT ?? pip.get('cert');
  return {
    ...env,
    ...(index && !env.UV_INDEX_URL && { UV_DEFAULT_INDEX: index }),
    ...(certificates && { SSL_CERT_FILE: certificates }),
    // A slow line is no error; the default gives up after half a minute of silence.
    UV_HTTP_TIMEOUT: env.UV_HTTP_TIMEOUT ?? '300',
    UV_NO_PROGRESS: '1',
    // An environment that happens to be active is not the one to work on.
    VIRTUAL_ENV: undefined,
    CONDA_PREFIX: undefined,
  };
}

/** pip's settings by name, from all of its files. */
async function pipSettings(env: NodeJS.ProcessEnv): Promise<ReadonlyMap<string, string>> {
  const { stdout, failed } = await execa('python3', ['-m', 'pip', 'config', 'list'], { env, extendEnv: false, reject: false, stdin: 'ignore', timeout: 30_000 });
  const lines = failed ? [] : stdout.split('\n').map(line => /^(?:global|install)\.([\w-]+)='(.*)'$/.exec(line.trim()));
  return new Map(lines.flatMap(found => (found ? [[found[1] ?? '', found[2] ?? '']] : [])));
}

function lastLines(output: string): string | undefined {
  const text = output.trim().split('\n').slice(-3).join('\n').trim();
  return text === '' ? undefined : text;
}
