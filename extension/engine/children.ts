/** Running another program so that it can be stopped at once, with everything that it has started. */
import { execa } from 'execa';
import { t } from '../l10n/text.ts';
import type { ProcessIdentity } from '../protocol/types.ts';
import { identify } from '../runs/process.ts';

export interface ChildOptions {
  /** Not the user's folder: programs like uv read settings from where they stand. */
  readonly cwd: string;
  readonly env?: NodeJS.ProcessEnv;
  readonly signal?: AbortSignal | undefined;
  /** Each line of stdout and stderr, as it comes. */
  readonly onLine?: (line: string) => void;
  /** Told once who runs. */
  readonly onStart?: (identity: ProcessIdentity) => Promise<void>;
}

export interface Outcome {
  readonly ok: boolean;
  /** stdout and stderr as they came. */
  readonly output: string;
  /** How it ended when not well, in words. */
  readonly how: string;
}

/** Runs a program in a process group of its own. @throws the signal's reason when it was aborted; the group is dead then. */
export async function runChild(program: string, args: readonly string[], options: ChildOptions): Promise<Outcome> {
  const { cwd, env, signal, onLine, onStart } = options;
  signal?.throwIfAborted();
  const grouped = process.platform !== 'win32';
  const child = execa(program, args, {
    cwd,
    env: env ?? process.env,
    extendEnv: false,
    stdin: 'ignore',
    all: true,
    reject: false,
    detached: grouped,
    cleanup: !grouped,
    windowsHide: true,
  });
  const { pid } = child;
  const kill = (): void => {
    if (pid !== undefined && grouped) {
      killGroup(pid);
    }
    child.kill('SIGKILL');
  };
  signal?.addEventListener('abort', kill, { once: true });
  // Detached children outlive us; these must not when we end in an orderly way.
  process.once('exit', kill);
  // From the first moment: what comes before somebody listens is lost.
  const lines = onLine ? eachLine(child.iterable({ from: 'all' }), onLine) : undefined;
  try {
    const identity = pid !== undefined && onStart ? await identify(pid) : undefined;
    if (identity) {
      await onStart?.(identity);
    }
    await lines;
    const { all, exitCode, signal: killedBy, originalMessage, failed } = await child;
    signal?.throwIfAborted();
    return { ok: !failed, output: all, how: killedBy ? t('killed by {0}', killedBy) : (originalMessage ?? t('exit status {0}', exitCode ?? 'unknown')) };
  } finally {
    signal?.removeEventListener('abort', kill);
    process.removeListener('exit', kill);
  }
}

async function eachLine(lines: AsyncIterable<string>, onLine: (line: string) => void): Promise<void> {
  for await (const line of lines) {
    onLine(line);
  }
}

/** The child is ours and not yet reaped, so its group's number cannot be another's. */
function killGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // It has ended already.
  }
}
