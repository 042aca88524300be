/** `npm start -- --open`: serves a real VS Code workbench with the extension installed, to one browser of this machine. */
import { createHash } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { bondwiseHome } from '../engine/home.ts';
import { createProfile, installExtension, launchCodeServer, type Profile, stopCodeServer } from './codeserver.ts';
import { provisionWorkbench } from './provision.ts';
import { openProxy } from './proxy.ts';
import { ScriptError, step } from './terminal.ts';

export interface ServeOptions {
  readonly vsix: string;
  /** What the workbench opens. */
  readonly folder: string;
  readonly port?: number;
}

/** Serves until Ctrl-C. Resolves to the exit status. */
export async function serveWorkbench({ vsix, folder, port }: ServeOptions): Promise<number> {
  await provisionWorkbench();
  const profile = await createProfile(path.join(bondwiseHome(), 'workbench'), {}, { BONDWISE_HOME: bondwiseHome() });
  await installOnce(profile, vsix);
  // mkdtemp makes the folder with mode 0700: nobody else reaches the socket in it.
  const directory = await mkdtemp(path.join(tmpdir(), 'bondwise-'));
  const socket = path.join(directory, 'workbench.sock');
  const log = path.join(profile.directory, 'server.log');
  const server = launchCodeServer(profile, { listen: { socket } });
  const ended = new Promise<'ended'>((resolve) => server.once('exit', () => resolve('ended')));
  const output = createWriteStream(log);
  server.stdout?.pipe(output, { end: false });
  server.stderr?.pipe(output, { end: false });
  const stopped = new Promise<'stopped'>((resolve) => {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
      process.on(signal, () => resolve('stopped'));
    }
  });
  try {
    const up = await Promise.race([answers(socket), ended, stopped]);
    if (up !== true) {
      return up === 'stopped' ? 0 : fail(log);
    }
    const proxy = await openProxy({ socket, landing: `/?folder=${encodeURIComponent(folder)}`, ...(port === undefined ? {} : { port }) }).catch((error: unknown) => {
      throw new ScriptError(`Port ${port ?? 0} of 127.0.0.1 cannot be used: ${error instanceof Error ? error.message : String(error)}`);
    });
    console.log(`\nVS Code is served on this machine only. Open this address; it works once:\n\n  ${proxy.url}\n\nCtrl-C ends it.`);
    const why = await Promise.race([ended, stopped]);
    await proxy.close();
    return why === 'stopped' ? 0 : fail(log);
  } finally {
    await stopCodeServer(server);
    await rm(directory, { recursive: true, force: true });
  }
}

async function installOnce(profile: Profile, vsix: string): Promise<void> {
  const stamp = path.join(profile.directory, 'installed');
  const key = createHash('sha256').update(await readFile(vsix)).digest('hex');
  if ((await readFile(stamp, 'utf8').catch(() => '')) !== key) {
    await step('Installing the extension into the workbench', () => installExtension(profile, vsix));
    await writeFile(stamp, key);
  }
}

/** Resolves to true once the server behind the socket answers, to false after a minute. */
async function answers(socket: string): Promise<boolean> {
  for (const start = Date.now(); Date.now() - start < 60_000; ) {
    const healthy = await new Promise<boolean>((resolve) => {
      const probe = request({ socketPath: socket, path: '/healthz' }, (reply) => {
        reply.resume();
        resolve(reply.statusCode === 200);
      });
      probe.on('error', () => resolve(false));
      probe.end();
    });
    if (healthy) {
      return true;
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  return false;
}

function fail(log: string): number {
  console.error(`The workbench ended or did not come up: ${log} says why.`);
  return 1;
}
