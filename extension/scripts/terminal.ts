/** What the scripts print, and how they run other programs. */
import { spawn } from 'node:child_process';
import { formatDuration } from '../runs/format.ts';

/** A failure that a person can act on: the scripts print its message without a stack. */
export class ScriptError extends Error {}

/** Runs the script's main function, prints a {@link ScriptError} as one message and sets the exit status. */
export async function main(work: () => Promise<number>): Promise<void> {
  try {
    process.exitCode = await work();
  } catch (error) {
    console.error(error instanceof ScriptError ? error.message : error);
    process.exitCode = 1;
  }
}

/** Announces a step on stderr, and how long it took when that was long enough to notice. */
export async function step<T>(title: string, work: () => Promise<T>): Promise<T> {
  const start = performance.now();
  console.error(`• ${title} …`);
  const result = await work();
  const seconds = (performance.now() - start) / 1000;
  if (seconds >= 2) {
    console.error(`  ${title}: done in ${formatDuration(seconds)}`);
  }
  return result;
}

export interface RunOptions {
  readonly cwd?: string;
  readonly env?: NodeJS.ProcessEnv;
  /** What to say, before the program's last lines, when it fails. */
  readonly failure: string;
}

/** Runs a program and keeps its output to itself unless it fails. Resolves to stdout and stderr, interleaved. */
export function runQuiet(program: string, args: readonly string[], options: RunOptions): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { cwd: options.cwd, env: options.env ?? process.env, stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    const keep = (chunk: Buffer): void => {
      output += chunk.toString();
    };
    child.stdout.on('data', keep);
    child.stderr.on('data', keep);
    child.on('error', (error) => reject(new ScriptError(`${options.failure}\n${program}: ${error.message}`)));
    child.on('close', (code, signal) => {
      if (code === 0) {
        resolve(output);
      } else {
        const tail = output.trimEnd().split('\n').slice(-25).join('\n');
        reject(new ScriptError(`${options.failure}\n${program} ${args.join(' ')} ended with ${signal ?? `status ${code ?? '?'}`}:\n${tail}`));
      }
    });
  });
}

/** Rows as aligned columns; the first column is text, the others are figures and lean right. */
export function formatTable(header: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = header.map((title, column) => Math.max(title.length, ...rows.map((row) => row[column]?.length ?? 0)));
  const line = (cells: readonly string[]): string =>
    cells.map((cell, column) => (column === 0 ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0))).join('  ').trimEnd();
  return [line(header), widths.map((width) => '─'.repeat(width)).join('  '), ...rows.map(line)].join('\n');
}
