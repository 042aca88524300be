/** `npm run -s engine -- COMMAND …`: the engine's command line, as `python -m bondwise COMMAND …` in the environment of the project. */
import { spawn } from 'node:child_process';
import os from 'node:os';
import { engineArguments, engineVariables } from '../engine/find.ts';
import { ensureEnvironment } from './environment.ts';
import { main, ScriptError } from './terminal.ts';

await main(async () => {
  const environment = await ensureEnvironment();
  const child = spawn(environment.python, engineArguments(process.argv.slice(2)), {
    // npm runs scripts in the project's folder; paths in the arguments are meant from where the user is.
    cwd: process.env.INIT_CWD ?? process.cwd(),
    env: { ...process.env, ...engineVariables(environment) },
    stdio: 'inherit',
  });
  // Ctrl-C in a terminal reaches the engine by itself, and a second signal would end it without its tidying up.
  process.on('SIGINT', () => process.stdin.isTTY || child.kill('SIGINT'));
  process.on('SIGTERM', () => child.kill('SIGTERM'));
  return new Promise<number>((resolve, reject) => {
    child.once('error', error => reject(new ScriptError(`${environment.python} cannot be run: ${error.message}`)));
    child.once('exit', (code, signal) => resolve(code ?? 128 + (signal ? os.constants.signals[signal] : 0)));
  });
});
