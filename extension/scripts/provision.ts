/**
 * Brings what the end-to-end tests and `npm start -- --open` need beside the npm packages of the root: code-server (a real VS Code
 * workbench) and a browser. Nothing is done twice: a stamp tells when the workbench is ready.
 */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { projectRoot } from './project.ts';
import { runQuiet, ScriptError, step } from './terminal.ts';

const workbenchRoot = path.join(projectRoot, 'test/e2e');
const codeServer = path.join(workbenchRoot, 'node_modules/code-server');

/** The script that node runs to get code-server. */
export const codeServerEntry = path.join(codeServer, 'out/node/entry.js');

/**
 * Installs code-server under `test/e2e/node_modules` (about a minute, 850 MB) unless it is there.
 * Its own install scripts would compile kerberos and sqlite3, which need system packages; only the two native modules that matter are
 * built: without spdlog there are no log files and no output channels, and the watchdog ends extension hosts whose server died.
 */
export async function provisionWorkbench(): Promise<void> {
  const stamp = path.join(workbenchRoot, 'node_modules/.bondwise-ready');
  const lock = await readFile(path.join(workbenchRoot, 'package-lock.json'));
  const key = createHash('sha256').update(lock).update(process.version).digest('hex');
  if (existsSync(stamp) && (await readFile(stamp, 'utf8')) === key) {
    return;
  }
  if (process.platform === 'win32') {
    throw new ScriptError('The workbench for tests (code-server) does not run on Windows: use WSL.');
  }
  await step('Installing the VS Code workbench (code-server, about a minute, once)', async () => {
    const env = { ...process.env, ...nodeHeaders(), npm_config_loglevel: 'error' };
    const npm = (args: readonly string[], cwd: string): Promise<string> =>
      runQuiet('npm', args, { cwd, env, failure: `npm ${args[0] ?? ''} failed in ${cwd}: check that the npm registry can be reached, then run the same command again.` });
    await npm(['ci', '--ignore-scripts'], workbenchRoot);
    // What code-server's own install script would do, again without scripts; both folders carry an npm-shrinkwrap.json.
    const vscode = path.join(codeServer, 'lib/vscode');
    await npm(['install', '--omit=dev', '--ignore-scripts'], vscode);
    await npm(['install', '--omit=dev', '--ignore-scripts'], path.join(vscode, 'extensions'));
    await runQuiet('npm', ['rebuild', '@vscode/spdlog', '@vscode/native-watchdog'], {
      cwd: vscode,
      env,
      failure: 'Two native modules of the workbench could not be compiled: install python3, make and a C++ compiler (Debian: apt-get install python3 make g++).',
    });
    await runQuiet(process.execPath, ['-e', 'for (const name of ["@vscode/spdlog", "@vscode/native-watchdog", "node-pty"]) require(name)'], {
      cwd: vscode,
      failure: 'The workbench was installed, but a native module of it does not load.',
    });
  });
  await writeFile(stamp, key);
}

/** The C++ headers that came with the running Node, so that node-gyp need not download them. */
function nodeHeaders(): NodeJS.ProcessEnv {
  const prefix = path.join(path.dirname(process.execPath), '..');
  return existsSync(path.join(prefix, 'include/node/node_version.h')) ? { npm_config_nodedir: prefix } : {};
}

/**
 * The browser that drives the workbench: `E2E_CHROMIUM`, else an installed Chromium or Chrome, else on Debian as root the
 * distribution's package.
 */
export async function provisionBrowser(): Promise<string> {
  const named = process.env.E2E_CHROMIUM;
  if (named !== undefined) {
    if (!existsSync(named)) {
      throw new ScriptError(`E2E_CHROMIUM names ${named}, which does not exist.`);
    }
    return named;
  }
  const found = findBrowser();
  if (found !== undefined) {
    return found;
  }
  if (process.platform === 'linux' && process.getuid?.() === 0 && (await isDebian())) {
    await step('Installing Chromium from the distribution (about a minute, once)', async () => {
      const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
      const failure = 'Chromium could not be installed: install it yourself and set E2E_CHROMIUM to its path.';
      await runQuiet('apt-get', ['update', '-qq'], { env, failure });
      await runQuiet('apt-get', ['install', '-y', '-qq', '--no-install-recommends', 'chromium'], { env, failure });
    });
    const installed = findBrowser();
    if (installed !== undefined) {
      return installed;
    }
  }
  throw new ScriptError('The end-to-end tests need a browser: install Chromium or Chrome, or set E2E_CHROMIUM to the path of one.');
}

function findBrowser(): string | undefined {
  const names = ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'];
  const folders = (process.env.PATH ?? '').split(path.delimiter);
  const onPath = names.flatMap((name) => folders.map((folder) => path.join(folder, name)));
  const apps = ['/Applications/Google Chrome.app/Contents/MacOS/Google Chrome', '/Applications/Chromium.app/Contents/MacOS/Chromium'];
  return [...onPath, ...apps].find((file) => existsSync(file));
}

async function isDebian(): Promise<boolean> {
  const release = await readFile('/etc/os-release', 'utf8').catch(() => '');
  return /^ID=debian$/m.test(release);
}
