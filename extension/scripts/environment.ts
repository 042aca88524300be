/** The engine's environment for the npm scripts: found, or made with progress on stderr. Shared with the extension: extension/engine. */
import path from 'node:path';
import { describeMissing, type Environment, findEnvironment } from '../engine/find.ts';
import type { Lock } from '../engine/home.ts';
import { setUpEnvironment, type SetUpProgress } from '../engine/setup.ts';
import { SetUpError } from '../engine/uv.ts';
import { formatBytes, formatDuration } from '../runs/format.ts';
import { projectRoot } from './project.ts';
import { ScriptError } from './terminal.ts';

export const engineDir = path.join(projectRoot, 'engine');

/** Milliseconds between two lines where the output is no terminal. */
const PLAIN_INTERVAL = 10_000;

/**
 * The interpreter that BONDWISE_PYTHON names, else our own environment of the lock; made when it is not there. Scripts and tests take no
 * other Python that happens to be around: what they find must not depend on the machine.
 * @throws ScriptError with what to do. Ctrl-C ends the set-up at once, with exit status 130.
 */
export async function ensureEnvironment(lock: Lock = 'requirements.lock'): Promise<Environment> {
  const setting = process.env.BONDWISE_PYTHON;
  if (setting) {
    const found = await findEnvironment({ engineDir, setting, lock });
    if (found.python === undefined) {
      throw new ScriptError(`The Python that BONDWISE_PYTHON names cannot be used.\n${describeMissing(found)}`);
    }
    return found;
  }
  const abort = new AbortController();
  const stop = (): void => abort.abort();
  process.once('SIGINT', stop);
  process.once('SIGTERM', stop);
  const show = progressPrinter();
  try {
    return await setUpEnvironment({ engineDir, lock, signal: abort.signal, onProgress: show.report });
  } catch (error) {
    if (abort.signal.aborted) {
      show.end();
      console.error('The set-up was cancelled. Run the same command again to go on.');
      process.exit(130);
    }
    throw error instanceof SetUpError ? new ScriptError(`${error.message}\n${error.remedy}`) : error;
  } finally {
    show.end();
    process.removeListener('SIGINT', stop);
    process.removeListener('SIGTERM', stop);
  }
}

function progressPrinter(): { report: (progress: SetUpProgress) => void; end: () => void } {
  let phase = '';
  let printed = 0;
  let open = false;
  const report = (progress: SetUpProgress): void => {
    const line = `Engine: ${progressLine(progress)}`;
    if (process.stderr.isTTY) {
      process.stderr.write(`\r\x1b[2K${line.slice(0, (process.stderr.columns || 80) - 1)}`);
      open = true;
    } else if (progress.phase !== phase || performance.now() - printed > PLAIN_INTERVAL) {
      process.stderr.write(`${line}\n`);
      printed = performance.now();
    }
    phase = progress.phase;
  };
  const end = (): void => {
    if (open) {
      process.stderr.write('\r\x1b[2K');
      open = false;
    }
  };
  return { report, end };
}

function progressLine({ phase, elapsed, packages, bytes, rate, eta }: SetUpProgress): string {
  const parts = [phase];
  if (bytes) {
    parts.push(`${formatBytes(bytes.done)} of ${formatBytes(bytes.total)}`);
  } else if (packages !== undefined) {
    parts.push(`${packages} packages`);
  }
  if (rate !== undefined) {
    parts.push(`${formatBytes(rate)}/s`);
  }
  parts.push(eta === undefined ? formatDuration(elapsed) : `${formatDuration(eta)} left`);
  return parts.join(' · ');
}
