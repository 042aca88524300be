/** Starting the engine on a run directory, as a process that outlives this one. */
import { spawn } from 'node:child_process';
import { access, open, readFile } from 'node:fs/promises';
import path from 'node:path';
import { isRunRequest, isRunStatus } from '../protocol/validate.js';
import type { ErrorInfo, RunStatus } from '../protocol/types.ts';
import { recordLaunch } from '../runs/control.ts';
import { rotateLog } from '../runs/log.ts';
import { readJson, replaceJson } from '../runs/files.ts';
import { identify } from '../runs/process.ts';
import type { Environment } from './find.ts';
import { startCommand } from './startCommand.ts';

/**
 * Starts `python -m bondwise start RUN_DIR`, by torchrun where the request asks for several processes, in a session of its own: closing the window, or the death of the extension host, does not
 * touch it. Its output goes to `log.txt`. Resolves as soon as the process runs; what it does is in the run directory.
 *
 * When it cannot be started, or ends before it has taken up the run, the run's status becomes `failed` with the reason: that is never
 * thrown. @throws when the run directory cannot be written.
 */
export async function launch(environment: Environment, directory: string): Promise<void> {
  const log = path.join(directory, 'log.txt');
  await replaceJson(path.join(directory, 'status.json'), {
    version: 1,
    state: 'queued',
    phase: 'Starting the engine',
    updated: new Date().toISOString(),
  } satisfies RunStatus);
  await recordLaunch(directory, undefined);
  await rotateLog(log);
  const handle = await open(log, 'a');
  try {
    const { size } = await handle.stat();
    const command = startCommand(environment, directory, await processesOf(directory));
    const child = spawn(environment.python, command.arguments, {
      cwd: directory,
      env: { ...process.env, ...command.variables },
      stdio: ['ignore', handle.fd, handle.fd],
      detached: true,
      windowsHide: true,
    });
    child.unref();
    const ended = new Promise<string | undefined>(resolve => {
      child.once('error', error => resolve(error.message));
      child.once('exit', (code, signal) => resolve(code === 0 ? undefined : signal ? `killed by ${signal}` : `exit status ${code ?? 'unknown'}`));
    }).then(how => (how === undefined ? undefined : settle(environment, directory, how, log, size)));
    if (child.pid === undefined) {
      await ended;
    } else {
      // Nobody waits for a run of hours; that its folder has gone by then is no error of ours.
      ended.catch(() => undefined);
      await recordLaunch(directory, await identify(child.pid));
    }
  } finally {
    await handle.close();
  }
}

/** How many processes the request asks for; one where it cannot be read, which the engine then says. */
async function processesOf(directory: string): Promise<number> {
  const read = await readJson(path.join(directory, 'run.json'), isRunRequest);
  return read && 'value' in read ? (read.value.processes ?? 1) : 1;
}

/** Only a run that nobody has taken up is settled here: an engine that came further has written its own end. */
async function settle(environment: Environment, directory: string, how: string, log: string, from: number): Promise<void> {
  const file = path.join(directory, 'status.json');
  const read = await readJson(file, isRunStatus);
  if (!read || 'problem' in read || read.value.state !== 'queued' || read.value.process) {
    return;
  }
  if (await access(path.join(directory, 'cancel')).then(() => true, () => false)) {
    await replaceJson(file, { version: 1, state: 'cancelled', updated: new Date().toISOString() } satisfies RunStatus);
    return;
  }
  const output = (await readFile(log).catch(() => Buffer.alloc(0))).subarray(from).toString('utf8').trim();
  await replaceJson(file, {
    version: 1,
    state: 'failed',
    updated: new Date().toISOString(),
    error: explain(environment, how, output),
  } satisfies RunStatus);
}

function explain(environment: Environment, how: string, output: string): ErrorInfo {
  const last = output.split('\n').at(-1)?.trim();
  const repair = environment.source === 'setting' ? 'Check the interpreter in the settings' : 'Run “Bondwise: Set Up Engine” and let it repair the environment';
  return {
    message: `The engine did not start with ${environment.python} (${how})${last ? `: ${last}` : '.'}`,
    remedy: `${repair}; log.txt in the run’s folder says more.`,
    detail: output.slice(-4000),
  };
}
