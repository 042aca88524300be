/** The sensitivity view alone in a browser window, with a stand-in for VS Code. */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { build } from 'esbuild';
import { chromium, type Browser, type Page } from 'playwright-core';
import { projectRoot } from '../../../extension/scripts/project.ts';
import { provisionBrowser } from '../../../extension/scripts/provision.ts';

const DOCUMENT = `<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta property="csp-nonce" content="bench"><link rel="stylesheet" href="sensitivity.css">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'nonce-bench'; style-src 'self' 'nonce-bench'"></head>
<body class="vscode-dark"><div id="root"></div><script nonce="bench" src="sensitivity.js"></script></body></html>`;

export interface ViewWindow {
  /** A fresh document, with nothing compiled by an earlier one. */
  readonly open: () => Promise<Page>;
  readonly close: () => Promise<void>;
}

export async function viewWindow(): Promise<ViewWindow> {
  const folder = await mkdtemp(path.join(tmpdir(), 'bondwise-heatmap-'));
  const closing: (() => Promise<unknown>)[] = [() => rm(folder, { recursive: true, force: true })];
  const close = async (): Promise<void> => {
    for (const one of closing.reverse()) {
      await one();
    }
  };
  try {
    await build({
      absWorkingDir: projectRoot,
      entryPoints: { sensitivity: 'webview/sensitivity/main.ts' },
      outdir: folder,
      bundle: true,
      minify: true,
      platform: 'browser',
      format: 'iife',
      target: 'es2022',
      logLevel: 'warning',
    });
    const types: Readonly<Record<string, string>> = { '/sensitivity.js': 'text/javascript', '/sensitivity.css': 'text/css' };
    const server = createServer((request, response) => {
      const [url = '/'] = (request.url ?? '/').split('?');
      const type = types[url];
      if (type === undefined) {
        response.writeHead(url === '/' ? 200 : 404, { 'content-type': 'text/html' }).end(url === '/' ? DOCUMENT : '');
        return;
      }
      void readFile(path.join(folder, url)).then(content => response.writeHead(200, { 'content-type': type }).end(content));
    });
    await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve));
    closing.push(() => new Promise(resolve => server.close(resolve)));
    const address = server.address();
    const origin = `http://127.0.0.1:${typeof address === 'object' && address ? address.port : 0}/`;
    const browser: Browser = await chromium.launch({ executablePath: await provisionBrowser(), args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'] });
    closing.push(() => browser.close());
    const open = async (): Promise<Page> => {
      const context = await browser.newContext({ viewport: { width: 1280, height: 900 } });
      const page = await context.newPage();
      // As text: a function would be compiled with helpers that the page does not have.
      await page.addInitScript('window.acquireVsCodeApi = () => ({ postMessage() {}, getState() {}, setState() {} })');
      await page.goto(origin);
      await page.locator('main').waitFor();
      return page;
    };
    return { open, close };
  } catch (error) {
    await close();
    throw error;
  }
}
