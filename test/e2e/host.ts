/** Runs a mocha suite inside the extension host of a real workbench. */
import path from 'node:path';
import { format } from 'node:util';
import type { Server } from './server.ts';
import { Workbench } from './workbench.ts';

export interface HostSuite {
  /** Extension under test: a folder with package.json and its built main. */
  readonly development: string;
  /** A CommonJS file that exports `run(): Promise<void>`. */
  readonly tests: string;
  readonly timeout: number;
  readonly onLine: (line: string) => void;
}

/** Resolves to the exit code that VS Code reports: 0 when `run()` resolved. The server must have been started with `driver`. */
export async function runInHost(server: Server, suite: HostSuite): Promise<number> {
  const uri = (file: string): string => `vscode-remote://${server.authority}${path.resolve(file)}`;
  const payload = [
    ['extensionDevelopmentPath', uri(suite.development)],
    ['extensionTestsPath', uri(suite.tests)],
    ['skipWelcome', 'true'],
    ['skipReleaseNotes', 'true'],
  ];
  let resolve: (code: number) => void = () => undefined;
  let reject: (error: Error) => void = () => undefined;
  const exit = new Promise<number>((...settle) => {
    [resolve, reject] = settle;
  });
  const timer = setTimeout(() => reject(new Error(`the suite inside the extension host ran past ${suite.timeout / 1000} s`)), suite.timeout);
  const window = await Workbench.open(server, {
    query: `&payload=${encodeURIComponent(JSON.stringify(payload))}`,
    ready: false,
    prepare: async (page) => {
      await page.exposeFunction('codeAutomationLog', (_type: string, values: unknown[]) => {
        for (const line of format(...values).split('\n')) {
          suite.onLine(line);
        }
      });
      await page.exposeFunction('codeAutomationExit', (code: number) => resolve(code));
    },
  });
  try {
    return await exit;
  } finally {
    clearTimeout(timer);
    await window.close();
  }
}
