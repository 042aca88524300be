/** Prepares and starts code-server on a profile of its own, for the end-to-end tests and for `npm start -- --open`. */
import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, rename, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { codeServerEntry } from './provision.ts';
import { runQuiet, ScriptError } from './terminal.ts';

/** Quiet and local: nothing phones home, nothing pops up that the user did not ask for. */
const baseSettings: Readonly<Record<string, unknown>> = {
  'telemetry.telemetryLevel': 'off',
  'update.mode': 'none',
  'extensions.autoCheckUpdates': false,
  'extensions.autoUpdate': false,
  'extensions.ignoreRecommendations': true,
  'workbench.enableExperiments': false,
  'workbench.startupEditor': 'none',
  'workbench.tips.enabled': false,
  'workbench.secondarySideBar.defaultVisibility': 'hidden',
  'security.workspace.trust.enabled': false,
  'chat.disableAIFeatures': true,
};

export interface Profile {
  /** Holds settings, extensions, logs and code-server's own state; nothing outside it is written. */
  readonly directory: string;
  readonly env: NodeJS.ProcessEnv;
}

/** Settings as the profile keeps them: those of the machine (paths, devices) are read from a file of their own in a remote window. */
export type SettingsScope = 'User' | 'Machine';

/** Makes the profile's folders and, unless they are there already, its settings. */
export async function createProfile(
  directory: string,
  settings: Readonly<Record<string, unknown>> = {},
  env: NodeJS.ProcessEnv = {},
): Promise<Profile> {
  for (const folder of [path.dirname(settingsFile(directory, 'User')), path.join(directory, 'extensions'), path.join(directory, 'home')]) {
    await mkdir(folder, { recursive: true, mode: 0o700 });
  }
  await writeFile(path.join(directory, 'config.yaml'), '{}\n');
  if (!existsSync(settingsFile(directory, 'User'))) {
    await writeSettings(directory, { ...baseSettings, ...settings });
  }
  return { directory, env: { ...inheritedEnvironment(), XDG_DATA_HOME: path.join(directory, 'home'), XDG_CONFIG_HOME: path.join(directory, 'home'), ...env } };
}

/** Changes some of the profile's settings. Whoever watches the file sees the old one or the new one. */
export async function writeSettings(directory: string, change: Readonly<Record<string, unknown>>, scope: SettingsScope = 'User'): Promise<void> {
  const file = settingsFile(directory, scope);
  await mkdir(path.dirname(file), { recursive: true });
  const before: unknown = existsSync(file) ? JSON.parse(await readFile(file, 'utf8')) : {};
  await writeFile(`${file}.new`, `${JSON.stringify({ ...(typeof before === 'object' ? before : {}), ...change }, null, 2)}\n`);
  await rename(`${file}.new`, file);
}

function settingsFile(directory: string, scope: SettingsScope): string {
  return path.join(directory, 'data', scope, 'settings.json');
}

/** A VS Code terminal leaks variables that would make code-server talk to that instance; the test runner leaks its own. */
function inheritedEnvironment(): NodeJS.ProcessEnv {
  const foreign = /^(VSCODE_|ELECTRON_|NODE_OPTIONS$|NODE_TEST_CONTEXT$|PORT$|PASSWORD$|HASHED_PASSWORD$|CS_)/;
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !foreign.test(name)));
}

function profileArguments({ directory }: Profile): string[] {
  return [
    codeServerEntry,
    '--config', path.join(directory, 'config.yaml'),
    '--user-data-dir', path.join(directory, 'data'),
    '--extensions-dir', path.join(directory, 'extensions'),
  ];
}

/** Installs a packaged extension into the profile. */
export async function installExtension(profile: Profile, vsix: string): Promise<void> {
  await runQuiet(process.execPath, [...profileArguments(profile), '--install-extension', path.resolve(vsix), '--force'], {
    env: profile.env,
    failure: `${vsix} could not be installed.`,
  });
  // code-server reports some failures in its output only, with status 0.
  const installed = (await readdir(path.join(profile.directory, 'extensions'))).filter((name) => name.startsWith('bondwise.'));
  if (installed.length === 0) {
    throw new ScriptError(`${vsix} was not installed: the extensions folder of ${profile.directory} does not hold it.`);
  }
}

export type Listen = { readonly port: number } | { readonly socket: string };

export interface LaunchOptions {
  readonly listen: Listen;
  /**
   * VS Code's smoke test driver: a built server ignores extensionDevelopmentPath and extensionTestsPath without it. It also turns
   * notification toasts off and skips modal dialogs, so tests of the user interface run without.
   */
  readonly driver?: boolean;
  /** How long a window that lost its connection can come back to its extension host; code-server's default is three hours. */
  readonly graceSeconds?: number;
}

/** Starts code-server without a login of its own: whoever reaches the socket or port is in, so callers guard it. */
export function launchCodeServer(profile: Profile, options: LaunchOptions): ChildProcess {
  const listen =
    'socket' in options.listen
      ? ['--socket', options.listen.socket, '--socket-mode', '0600']
      : ['--bind-addr', `127.0.0.1:${options.listen.port}`];
  return spawn(
    process.execPath,
    [
      ...profileArguments(profile), ...listen, '--auth', 'none',
      '--disable-telemetry', '--disable-update-check', '--disable-workspace-trust', '--disable-getting-started-override', '--disable-proxy',
      '--ignore-last-opened',
      ...(options.graceSeconds === undefined ? [] : ['--reconnection-grace-time', String(options.graceSeconds)]),
      ...(options.driver === true ? ['--vscode-option', 'enable-smoke-test-driver'] : []),
    ],
    { cwd: profile.directory, env: profile.env, stdio: ['ignore', 'pipe', 'pipe'] },
  );
}

/**
 * Ends code-server and the processes that it started (extension host, terminals), by their ids.
 * A run of the engine lives in a session of its own and is left alone, as it would be by VS Code.
 */
export async function stopCodeServer(child: ChildProcess): Promise<void> {
  if (child.pid === undefined) {
    return;
  }
  const all = await ownDescendants(child.pid);
  if (child.exitCode === null && child.signalCode === null) {
    const gone = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGTERM');
    await Promise.race([gone, new Promise((resolve) => setTimeout(resolve, 5000))]);
  }
  for (const pid of [...all, child.pid]) {
    try {
      process.kill(pid, 'SIGKILL');
    } catch {
      // It has ended by itself.
    }
  }
}

interface ProcessEntry {
  readonly pid: number;
  readonly parent: number;
  readonly session: number;
}

/** Processes below `pid`, without those that opened a session outside code-server's pseudo-terminals. Empty where there is no /proc. */
async function ownDescendants(pid: number): Promise<number[]> {
  const entries = await readdir('/proc').catch(() => []);
  const processes: ProcessEntry[] = [];
  for (const entry of entries.filter((name) => /^\d+$/.test(name))) {
    const stat = await readFile(`/proc/${entry}/stat`, 'utf8').catch(() => '');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    if (stat !== '') {
      processes.push({ pid: Number(entry), parent: Number(fields[1]), session: Number(fields[3]) });
    }
  }
  const session = processes.find((entry) => entry.pid === pid)?.session;
  const below = (parent: number): number[] =>
    processes.filter((entry) => entry.parent === parent && entry.session === session).flatMap((entry) => [...below(entry.pid), entry.pid]);
  return below(pid);
}
