/** The main job on the sample model, as the terminal does it: both models in one folder that VS Code can open. */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { engineArguments, engineVariables, type Environment } from '../engine/find.ts';
import { bondwiseHome } from '../engine/home.ts';
import { isLineage } from '../protocol/validate.js';
import type { TensorizeResult } from '../protocol/types.ts';
import { runQuiet, ScriptError } from './terminal.ts';

/** What the demo compresses: layers that bear it without healing, so that the text stays sensible. The user may edit it and run it again. */
const plan = `{
  // What "npm start" makes of the sample model. "Run Plan" above the editor does it again, as you change it.
  "model": "SmolLM2-135M-Instruct",
  "output": "SmolLM2-135M-Instruct-mpo",
  "tensorize": [
    // All but the first block: the queries bear much, gate and up projections only late in the model.
    { "layers": ["*.q_proj"], "exclude": ["*.layers.0.*"], "keep": 0.5, "method": "fisher" },
    { "layers": ["re:.*\\\\.layers\\\\.2[2-9]\\\\.mlp\\\\.(gate|up)_proj"], "keep": 0.75, "method": "fisher" }
  ],
  "evaluate": {}
}
`;

const sampleName = 'SmolLM2-135M-Instruct';

/** The folder that `npm start -- --open` opens. */
export function demoFolder(): string {
  return path.join(bondwiseHome(), 'demo');
}

export function demoModel(): string {
  return path.join(demoFolder(), sampleName);
}

export function demoOutput(): string {
  return path.join(demoFolder(), `${sampleName}-mpo`);
}

/** Fetches and converts the sample model into `directory`, unless a whole one is there. */
export async function getSampleModel(environment: Environment, directory: string, output: 'quiet' | 'terminal'): Promise<void> {
  // The engine writes this file last, and looks closer than this; but it takes seconds to start.
  if (existsSync(path.join(directory, 'sample-model.json'))) {
    return;
  }
  const args = ['sample-model', directory, '--run', path.join(path.dirname(directory), '.bondwise/runs/sample-model')];
  if (output === 'terminal') {
    await engine(environment, args);
  } else {
    await runQuiet(environment.python, engineArguments(args), { env: variables(environment), failure: 'The sample model could not be made.' });
  }
}

/** Compresses the sample model and measures both, unless that has been done. */
export async function compressDemo(environment: Environment): Promise<TensorizeResult> {
  const output = demoOutput();
  const made = await readResult(output);
  if (made !== undefined) {
    return made;
  }
  const run = path.join(demoFolder(), '.bondwise/runs/demo');
  if (existsSync(path.join(run, 'result.json'))) {
    // The user removed the model but not the run that made it, which would say that it is done.
    await rm(run, { recursive: true });
  }
  await mkdir(demoFolder(), { recursive: true });
  const file = `${output}.bondwise.json`;
  // Whatever the user made of it is theirs.
  await writeFile(file, plan, { flag: 'wx' }).catch((error: unknown) => {
    if (!(error instanceof Error && 'code' in error && error.code === 'EEXIST')) {
      throw error;
    }
  });
  await engine(environment, ['run', file, '--run', run]);
  const result = await readResult(output);
  if (result === undefined) {
    throw new ScriptError(`${output} lacks its figures (bondwise.json). Remove that folder and run the same command again.`);
  }
  return result;
}

/** The figures in a compressed model's lineage, where both models were measured. */
async function readResult(model: string): Promise<TensorizeResult | undefined> {
  const text = await readFile(path.join(model, 'bondwise.json'), 'utf8').catch(() => undefined);
  if (text === undefined) {
    return undefined;
  }
  const lineage: unknown = JSON.parse(text);
  const result = isLineage(lineage) ? lineage.result : undefined;
  return result?.original && result.compressed ? result : undefined;
}

function variables(environment: Environment): NodeJS.ProcessEnv {
  return { ...process.env, ...engineVariables(environment) };
}

/** Runs an engine command with its progress on the terminal, and waits for its word when the user stops it. */
async function engine(environment: Environment, args: readonly string[]): Promise<void> {
  await mkdir(demoFolder(), { recursive: true });
  const child = spawn(environment.python, engineArguments([...args, '--json']), { cwd: demoFolder(), env: variables(environment), stdio: ['ignore', 'ignore', 'inherit'] });
  // Ctrl-C in a terminal reaches the engine by itself, and a second signal would end it without its tidying up.
  const interrupt = (): boolean => process.stdin.isTTY || child.kill('SIGINT');
  const terminate = (): boolean => child.kill('SIGTERM');
  process.on('SIGINT', interrupt);
  process.on('SIGTERM', terminate);
  try {
    const status = await new Promise<number>((resolve, reject) => {
      child.on('error', reject);
      child.on('close', (code) => resolve(code ?? 1));
    });
    if (status === 130) {
      throw new ScriptError('Stopped. The same command goes on from here.');
    }
    if (status !== 0) {
      throw new ScriptError(`The engine's command ${args[0] ?? ''} failed: see above.`);
    }
  } finally {
    process.off('SIGINT', interrupt);
    process.off('SIGTERM', terminate);
  }
}
