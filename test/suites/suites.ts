/** Every suite of the project, in the order in which `npm test` shows them: the quick ones first, while the others are prepared. */
import { spawn } from 'node:child_process';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { bondwiseHome } from '../../extension/engine/home.ts';
import { projectRoot } from '../../extension/scripts/project.ts';
import { type Counts, fromJunit, fromMocha, fromTap, fromVitest, none, settle } from './counts.ts';
import * as prepare from './prepare.ts';

export interface Suite {
  readonly name: string;
  readonly about: string;
  /** Starts what the suite needs; called for all chosen suites before the first one runs, and again by the suite itself. */
  readonly prepare: () => Promise<unknown>;
  /** Begun beside the suites before it: its work is long and for one core. What it tells is shown at its turn, which is over when it ends. */
  readonly early?: boolean;
  readonly run: (write: (text: string) => void) => Promise<Counts>;
}

const engine = path.join(projectRoot, 'engine');
/** Files whose tests do whole runs, many of them killed: a third of the suite's time, for another core. */
const LONG = /^test_(heal|quantize|serve|sensitivity|tensorize|own_code)/;
const nothing = (): Promise<void> => Promise.resolve();

export const suites: readonly Suite[] = [
  check('types', 'tsc, extension and tests', nothing, () => run(node('typescript/bin/tsc', '--noEmit'))),
  check('types-webview', 'tsc, webviews', nothing, () => run(node('typescript/bin/tsc', '--noEmit', '-p', 'webview'))),
  check('lint', 'eslint', nothing, () => run(node('eslint/bin/eslint.js', '.'))),
  check('generated', 'protocol files as the schema makes them', prepare.python, () =>
    run([process.execPath, path.join(projectRoot, 'extension/scripts/generate.ts'), '--check'])),
  check('ruff', 'ruff check', prepare.python, async () => run([await prepare.python(), '-m', 'ruff', 'check', '.', '../test'], { cwd: engine })),
  check('ruff-format', 'ruff format --check', prepare.python, async () =>
    run([await prepare.python(), '-m', 'ruff', 'format', '--check', '.', '../test'], { cwd: engine })),
  check('pyright', 'pyright, strict', prepare.python, async () =>
    run([await prepare.python(), '-m', 'pyright', '--pythonpath', await prepare.python()], { cwd: engine })),
  {
    name: 'unit',
    about: 'vitest: the parts without VS Code',
    prepare: prepare.python,
    run: () => withReport('vitest.json', async (report) => {
      const env = { BONDWISE_TEST_PYTHON: await prepare.python() };
      const status = await run([...node('vitest/vitest.mjs', 'run', '--reporter=default', '--reporter=json'), `--outputFile.json=${report}`], { env });
      return { status, parse: fromVitest };
    }),
  },
  {
    name: 'torture',
    about: 'a short part of npm run torture: faults and hostile input',
    prepare: prepare.python,
    run: async (write) => {
      const env = { BONDWISE_PYTHON: await prepare.python() };
      let output = '';
      const status = await run([process.execPath, path.join(projectRoot, 'test/torture/torture.ts'), '--short'], { env, write: also(write, (text) => (output += text)) });
      return settle(fromMocha(output), status);
    },
  },
  {
    name: 'host',
    about: 'mocha inside the extension host',
    prepare: () => Promise.all([prepare.workbench(), prepare.hostBundle()]),
    run: async (write) => {
      const env = await realWorkbench();
      const tests = await prepare.hostBundle();
      let output = '';
      const status = await run([process.execPath, path.join(projectRoot, 'test/suites/host.ts'), tests], { env, write: also(write, (text) => (output += text)) });
      return settle(fromMocha(output), status);
    },
  },
  pytest('engine-runs', 'pytest: whole runs of the engine', { early: false, takes: (file) => LONG.test(file) }),
  pytest('engine', 'pytest: the engine', { early: true, takes: (file) => !LONG.test(file) }),
  {
    name: 'e2e',
    about: 'a user in the real workbench',
    prepare: () => Promise.all([prepare.workbench(), prepare.vsix(), prepare.sampleModel()]),
    run: () => withReport('e2e.tap', async (report) => {
      const env = { ...(await realWorkbench()), BONDWISE_TEST_VSIX: await prepare.vsix(), BONDWISE_TEST_MODEL: await prepare.sampleModel() };
      const folder = path.join(projectRoot, 'test/e2e');
      const files = (await readdir(folder)).filter((file) => file.endsWith('.test.ts')).sort().map((file) => path.join(folder, file));
      const reporters = ['--test-reporter=spec', '--test-reporter-destination=stdout', '--test-reporter=tap', `--test-reporter-destination=${report}`];
      const status = await run([process.execPath, '--test', '--test-concurrency=1', ...reporters, ...files], { env });
      return { status, parse: fromTap };
    }),
  },
];

/** The engine's tests in those of its files that are taken. */
function pytest(name: string, about: string, { early, takes }: { readonly early: boolean; readonly takes: (file: string) => boolean }): Suite {
  const work = async (write: (text: string) => void): Promise<Counts> => withReport('pytest.xml', async (report) => {
    const folder = path.join(projectRoot, 'test/engine');
    const left = (await readdir(folder)).filter((file) => /^test_.*\.py$/.test(file) && !takes(file)).map((file) => `--ignore=${path.join(folder, file)}`);
    const env = { OMP_NUM_THREADS: '1', ...process.env, BONDWISE_TEST_PYTHON: await prepare.python() };
    const status = await run([await prepare.python(), '-m', 'pytest', `--junitxml=${report}`, ...left], { cwd: engine, env, write });
    return { status, parse: fromJunit };
  });
  return { name, about, prepare: prepare.python, early, run: work };
}

async function realWorkbench(): Promise<NodeJS.ProcessEnv> {
  return { E2E_CHROMIUM: await prepare.workbench(), BONDWISE_TEST_PYTHON: await prepare.python(), BONDWISE_HOME: bondwiseHome() };
}

/** A static check is one test. */
function check(name: string, about: string, needs: () => Promise<unknown>, work: () => Promise<number>): Suite {
  const one = async (): Promise<Counts> => ((await work()) === 0 ? { ...none, passed: 1 } : { ...none, failed: 1 });
  return { name, about, prepare: needs, run: one };
}

function node(program: string, ...args: readonly string[]): string[] {
  return [process.execPath, path.join(projectRoot, 'node_modules', program), ...args];
}

interface Outcome {
  readonly status: number;
  readonly parse: (text: string) => Counts;
}

async function withReport(name: string, work: (file: string) => Promise<Outcome>): Promise<Counts> {
  const folder = await mkdtemp(path.join(tmpdir(), 'bondwise-test-'));
  try {
    const file = path.join(folder, name);
    const { status, parse } = await work(file);
    const text = await readFile(file, 'utf8').catch(() => '');
    return settle(text === '' ? none : parse(text), status);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

interface RunOptions {
  readonly cwd?: string;
  readonly env?: NodeJS.ProcessEnv;
  readonly write?: (text: string) => void;
}

function also(write: (text: string) => void, keep: (text: string) => void): (text: string) => void {
  return (text) => {
    write(text);
    keep(text);
  };
}

/** Runs a program, its output written where that is told, else on the terminal. Resolves to its exit status. */
function run([program = '', ...args]: readonly string[], { cwd = projectRoot, env, write }: RunOptions = {}): Promise<number> {
  return new Promise((resolve) => {
    const output = write === undefined ? 'inherit' : 'pipe';
    const child = spawn(program, args, { cwd, env: { ...process.env, ...env }, stdio: ['ignore', output, output] });
    for (const stream of [child.stdout, child.stderr]) {
      stream?.setEncoding('utf8').on('data', (text: string) => write?.(text));
    }
    child.on('error', (error) => {
      console.error(`${program}: ${error.message}`);
      resolve(1);
    });
    child.on('close', (code) => resolve(code ?? 1));
  });
}
