import assert from 'node:assert/strict';
import path from 'node:path';
import { rm, writeFile } from 'node:fs/promises';
import { after, before, describe, it } from 'mocha';
import * as vscode from 'vscode';
import type { Api } from '../../extension/extension.ts';
import { COMPARE_VIEW_TYPE } from '../../extension/panels/compare.ts';
import { readCompareData } from '../../extension/panels/compareData.ts';
import { webviewHtml } from '../../extension/panels/html.ts';
import { isHostMessage } from '../../extension/protocol/validate.js';
import { api, temporary, until, writeCompressed } from './fixtures.ts';

let extension: Api;
let place: Awaited<ReturnType<typeof temporary>>;
let folder: string;

function tabs(): vscode.Tab[] {
  return vscode.window.tabGroups.all.flatMap(group => group.tabs).filter(({ input }) => input instanceof vscode.TabInputWebview && input.viewType.endsWith(COMPARE_VIEW_TYPE));
}

describe('the compare panel', () => {
  before(async () => {
    extension = await api();
    place = await temporary();
    folder = await writeCompressed(path.join(place.folder, 'small'));
  });
  after(() => place.remove());

  it('opens once a model, and is gone when closed', async () => {
    await vscode.commands.executeCommand('bondwise.compare', folder);
    await vscode.commands.executeCommand('bondwise.compare', folder);
    const [tab] = await until('a tab', () => (tabs().length === 1 ? tabs() : undefined));
    assert.equal(tab?.label, 'Compare: small');
    assert.deepEqual(extension.panels.open, [folder]);
    await vscode.window.tabGroups.close(tabs());
    await until('closed', () => (extension.panels.open.length === 0 ? true : undefined));
  });

  it('is restored from its folder, and given up without one', async () => {
    const restored = vscode.window.createWebviewPanel(COMPARE_VIEW_TYPE, '', vscode.ViewColumn.One);
    await extension.panels.deserializeWebviewPanel(restored, { folder, sort: { column: 'keep', descending: true } });
    assert.equal(restored.title, 'Compare: small');
    assert.match(restored.webview.html, /compare\.js/);
    assert.equal(restored.webview.options.enableScripts, true);
    assert.deepEqual(extension.panels.open, [folder]);
    restored.dispose();
    for (const state of [undefined, {}, { folder: 7 }, { folder: 'relative' }]) {
      const lost = vscode.window.createWebviewPanel(COMPARE_VIEW_TYPE, '', vscode.ViewColumn.One);
      let disposed = false;
      lost.onDidDispose(() => {
        disposed = true;
      });
      await extension.panels.deserializeWebviewPanel(lost, state);
      assert.ok(disposed, JSON.stringify(state));
    }
  });

  it('allows nothing but its own bundle', () => {
    const panel = vscode.window.createWebviewPanel('bondwise.test', 'x', vscode.ViewColumn.One);
    const html = webviewHtml(panel.webview, vscode.Uri.file('/dist/webview'), 'compare', '<script>"');
    panel.dispose();
    const policy = /Content-Security-Policy" content="([^"]+)"/.exec(html)?.[1]?.replaceAll('&#39;', "'") ?? '';
    const [, nonce] = /nonce-([^']+)'/.exec(policy) ?? [];
    assert.ok(policy.startsWith("default-src 'none'; script-src 'nonce-"));
    assert.doesNotMatch(policy, /unsafe|\*(?!\.)|data:/);
    assert.ok(nonce !== undefined && html.includes(`<script nonce="${nonce}" src=`));
    assert.ok(html.includes('<title>&#60;script&#62;&#34;</title>'));
  });

  it('reads what both sides accept, and says what is missing', async () => {
    const data = await readCompareData(folder);
    assert.ok(isHostMessage({ type: 'compare', data }), JSON.stringify(isHostMessage.errors));
    assert.equal(data.original.path, path.join(place.folder, 'base'));
    assert.deepEqual([data.original.evaluation?.perplexity, data.compressed.evaluation?.perplexity], [20, 25]);
    await writeFile(path.join(folder, 'bondwise.json'), '{"version": 2}');
    await assert.rejects(readCompareData(folder), /newer Bondwise/);
    await rm(path.join(folder, 'bondwise.json'));
    await assert.rejects(readCompareData(folder), /holds no bondwise\.json/);
  });
});
