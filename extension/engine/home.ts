/** Where Bondwise keeps its environments, locks and the demo. */
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';

/** Requirements that an environment is made of: what the engine needs, or that and what its tests need. */
export type Lock = 'requirements.lock' | 'requirements-dev.lock';

/** The last thing written into an environment: one without it is half made. */
export const MARKER = '.complete';

/** BONDWISE_HOME, else the place that the system has for such data. */
export function bondwiseHome(env: NodeJS.ProcessEnv = process.env, platform: NodeJS.Platform = process.platform, home = os.homedir()): string {
  const system = platform === 'win32' ? path.win32 : path.posix;
  if (env.BONDWISE_HOME) {
    return path.resolve(env.BONDWISE_HOME);
  }
  if (env.XDG_DATA_HOME) {
    return system.join(env.XDG_DATA_HOME, 'bondwise');
  }
  if (platform === 'darwin') {
    return system.join(home, 'Library', 'Application Support', 'bondwise');
  }
  return platform === 'win32'
    ? system.join(env.LOCALAPPDATA ?? system.join(home, 'AppData', 'Local'), 'bondwise')
    : system.join(home, '.local', 'share', 'bondwise');
}

/** The environment of a lock: another lock is another environment, so that an update never breaks a running engine. */
export async function environmentDirectory(home: string, engineDir: string, lock: Lock): Promise<string> {
  const hash = createHash('sha256').update(await readFile(path.join(engineDir, lock)));
  return path.join(home, `env-${hash.digest('hex').slice(0, 12)}`);
}

export function pythonIn(environment: string, platform: NodeJS.Platform = process.platform): string {
  return platform === 'win32' ? path.win32.join(environment, 'Scripts', 'python.exe') : path.posix.join(environment, 'bin', 'python');
}
