/** One code-server on a folder of its own: what a test's windows connect to. */
import type { ChildProcess } from 'node:child_process';
import { createWriteStream } from 'node:fs';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createProfile, installExtension, launchCodeServer, stopCodeServer, writeSettings } from '../../extension/scripts/codeserver.ts';

export interface ServerOptions {
  /** Folder that the workbench opens. It lies in `server.directory` unless given. */
  readonly folder?: string;
  /** The packaged extension. Without it, the server is for {@link runInHost}. */
  readonly vsix?: string;
  readonly settings?: Readonly<Record<string, unknown>>;
  /** Settings of scope machine: paths and devices. */
  readonly machineSettings?: Readonly<Record<string, unknown>>;
  readonly env?: NodeJS.ProcessEnv;
  /** Only for {@link runInHost}: it turns notification toasts off. */
  readonly driver?: boolean;
}

const testSettings: Readonly<Record<string, unknown>> = {
  'workbench.reduceMotion': 'on',
  // A tooltip below the resting pointer would take clicks that are meant for what it covers.
  'workbench.hover.delay': 600_000,
  'workbench.colorTheme': 'Default Dark Modern',
  'window.autoDetectColorScheme': true,
  'workbench.preferredDarkColorTheme': 'Default Dark Modern',
  'workbench.preferredLightColorTheme': 'Default Light Modern',
  // A parent that sticks to the top of a list lies over the rows that it covers.
  'workbench.tree.enableStickyScroll': false,
  'git.enabled': false,
  'typescript.tsserver.enabled': false,
};

export class Server {
  /** Temporary; removed by stop() unless E2E_KEEP is set. */
  readonly directory: string;
  readonly folder: string;
  readonly port: number;
  readonly #child: ChildProcess;

  private constructor(directory: string, folder: string, port: number, child: ChildProcess) {
    this.directory = directory;
    this.folder = folder;
    this.port = port;
    this.#child = child;
  }

  get authority(): string {
    return `127.0.0.1:${this.port}`;
  }

  static async start(options: ServerOptions): Promise<Server> {
    const directory = await mkdtemp(path.join(tmpdir(), 'bondwise-e2e-'));
    const folder = options.folder ?? directory;
    const profile = await createProfile(path.join(directory, 'profile'), { ...testSettings, ...options.settings }, options.env);
    if (options.machineSettings !== undefined) {
      await writeSettings(profile.directory, options.machineSettings, 'Machine');
    }
    if (options.vsix !== undefined) {
      await installExtension(profile, options.vsix);
    }
    const port = await freePort();
    const child = launchCodeServer(profile, { listen: { port }, driver: options.driver ?? false, graceSeconds: 1 });
    const log = createWriteStream(path.join(directory, 'server.log'));
    child.stdout?.pipe(log, { end: false });
    child.stderr?.pipe(log, { end: false });
    const server = new Server(directory, folder, port, child);
    const deadline = Date.now() + 60_000;
    while (!(await server.#answers())) {
      if (child.exitCode !== null || Date.now() > deadline) {
        const output = await readFile(path.join(directory, 'server.log'), 'utf8');
        await server.stop();
        throw new Error(`code-server did not come up:\n${output}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    return server;
  }

  async #answers(): Promise<boolean> {
    return fetch(`http://${this.authority}/healthz`).then((reply) => reply.ok, () => false);
  }

  /** Extension host logs and output channels of all windows so far, by path below the logs folder. */
  async logs(): Promise<Record<string, string>> {
    const root = path.join(this.directory, 'profile/data/logs');
    const files = (await readdir(root, { recursive: true })).filter((file) => file.endsWith('.log'));
    return Object.fromEntries(await Promise.all(files.map(async (file) => [file, await readFile(path.join(root, file), 'utf8')] as const)));
  }

  /** As a user who edits settings.json: windows take the change up by themselves. */
  async changeSettings(change: Readonly<Record<string, unknown>>): Promise<void> {
    await writeSettings(path.join(this.directory, 'profile'), change);
  }

  async stop(): Promise<void> {
    await stopCodeServer(this.#child);
    if (process.env.E2E_KEEP === undefined) {
      await rm(this.directory, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
    } else {
      console.log(`kept ${this.directory}`);
    }
  }
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const probe = createServer().once('error', reject);
    probe.listen(0, '127.0.0.1', () => {
      const address = probe.address();
      probe.close(() => (typeof address === 'object' && address !== null ? resolve(address.port) : reject(new Error('no port'))));
    });
  });
}
