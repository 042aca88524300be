/** The command that does a run: as the extension starts it, and as a person pastes it into a terminal. */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { engineArguments, engineVariables, type Environment } from './find.ts';

/** How many processes do a run, and where. */
export interface Spread {
  /** On each machine. */
  readonly processes: number;
  readonly machines: number;
}

/** Where the machines of a run meet: torchrun's own default port. */
const PORT = 29_400;

/** Program, arguments and variables that start a run on this machine. */
export function startCommand(environment: Environment, directory: string, processes: number): { readonly arguments: string[]; readonly variables: NodeJS.ProcessEnv } {
  const start = ['start', directory];
  return processes > 1
    ? {
        arguments: ['-P', '-u', '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', String(processes), '-m', 'bondwise', ...start],
        // What -P does for this process alone: a file torch.py in a workspace must not run in the others either.
        variables: { ...engineVariables(environment), PYTHONSAFEPATH: '1' },
      }
    : { arguments: engineArguments(start), variables: engineVariables(environment) };
}

/**
 * A line for a POSIX shell that does the run, whatever folder it is pasted in. Of several machines it is the same on each.
 * @param host the machine where they meet.
 */
export function startLine(environment: Environment, directory: string, { processes, machines }: Spread, host: string): string {
  const set = Object.entries(engineVariables(environment, { PYTHONPATH: process.env.PYTHONPATH })).flatMap(([name, value]) => (value === undefined ? [] : [`${name}=${quoted(value)}`]));
  if (processes * machines <= 1) {
    return [...set, ...[environment.python, ...engineArguments(['start', directory])].map(quoted)].join(' ');
  }
  const meeting = machines > 1 ? ['--nnodes', String(machines), '--rdzv-backend', 'c10d', '--rdzv-endpoint', `${host}:${PORT}`, '--rdzv-id', path.basename(directory)] : ['--standalone'];
  const words = [...torchrun(environment.python), ...meeting, '--nproc-per-node', String(processes), '-m', 'bondwise', 'start', directory];
  return [...set, 'PYTHONSAFEPATH=1', ...words.map(quoted)].join(' ');
}

/** `2`, `4 processes`, `2x8` (machines × processes on each); undefined for what is none of these. */
export function parseSpread(text: string): Spread | undefined {
  const [, first, second] = /^([1-9]\d{0,3})\s*(?:[x×*]\s*([1-9]\d{0,3}))?(?:\s*\p{L}{2,})?$/u.exec(text.trim()) ?? [];
  if (first === undefined) {
    return undefined;
  }
  return second === undefined ? { machines: 1, processes: Number(first) } : { machines: Number(first), processes: Number(second) };
}

/** The program beside the interpreter, where it is there. */
function torchrun(python: string): readonly string[] {
  const beside = path.join(path.dirname(python), 'torchrun');
  return path.isAbsolute(python) && existsSync(beside) ? [beside] : [python, '-m', 'torch.distributed.run'];
}

/** One word of a POSIX shell. */
export function quoted(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}
