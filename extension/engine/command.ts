/** Short commands of the engine: one answer in JSON. */
import { createInterface } from 'node:readline';
import { execa } from 'execa';
import { t } from '../l10n/text.ts';
import { isDoctor, isInspection, type Validator } from '../protocol/validate.js';
import type { Doctor, Inspection } from '../protocol/types.ts';
import { parseJson } from '../runs/files.ts';
import { engineArguments, engineVariables, type Environment } from './find.ts';

export interface CommandOptions {
  readonly cwd?: string;
  /** Ends the command at once. */
  readonly signal?: AbortSignal;
  /** Called with each line on stdout as it comes, the answer included. */
  readonly onLine?: (line: string) => void;
}

/** The engine said no. `message` is its reason. */
export class EngineError extends Error {
  readonly exitCode: number | undefined;
  /** What to do, where the engine says that apart. */
  readonly remedy: string | undefined;

  constructor(message: string, exitCode?: number, remedy?: string) {
    super(message);
    this.name = 'EngineError';
    this.exitCode = exitCode;
    this.remedy = remedy;
  }
}

/**
 * Runs `python -m bondwise ARGS --json` and validates its answer, the last line on stdout.
 * @throws EngineError with the engine's own reason; the signal's reason when it was aborted.
 */
export async function runEngine<T>(
  environment: Environment,
  args: readonly string[],
  isValid: Validator<T>,
  { cwd = environment.engineDir, signal, onLine }: CommandOptions = {},
): Promise<T> {
  const running = execa(environment.python, engineArguments([...args, '--json']), {
    cwd,
    env: engineVariables(environment),
    stdin: 'ignore',
    reject: false,
    forceKillAfterDelay: 500,
    ...(signal && { cancelSignal: signal }),
  });
  if (onLine) {
    createInterface({ input: running.stdout }).on('line', onLine);
  }
  const { stdout, stderr, exitCode, failed, originalMessage } = await running;
  signal?.throwIfAborted();
  if (failed) {
    const reason = stderr.trim() === '' ? (originalMessage ?? t('exit status {0}', exitCode ?? 'unknown')) : stderr.trim();
    throw new EngineError(exitCode === undefined ? t('{0} cannot be run: {1}', environment.python, reason) : withoutTraceback(reason), exitCode);
  }
  const answer = parseJson(stdout.trim().split('\n').at(-1) ?? '', t('the answer of “{0}”', args.join(' ')), isValid);
  if ('problem' in answer) {
    throw new EngineError(answer.problem, exitCode);
  }
  return answer.value;
}

/** What the engine finds on this machine. Works without torch; not without pydantic. */
export async function doctor(environment: Environment, options?: CommandOptions): Promise<Doctor> {
  return runEngine(environment, ['doctor'], isDoctor, options);
}

export async function inspect(environment: Environment, model: string, options?: CommandOptions): Promise<Inspection> {
  return runEngine(environment, ['inspect', model], isInspection, options);
}

/** Of a traceback only the last line, the exception itself, is for a person. */
function withoutTraceback(stderr: string): string {
  return stderr.includes('Traceback (most recent call last)') ? (stderr.split('\n').at(-1) ?? stderr) : stderr;
}
