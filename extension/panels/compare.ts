/** The host's side of the compare panel: one panel a compressed model, restored from its folder after a reload. */
import path from 'node:path';
import * as vscode from 'vscode';
import type { WebviewRequest } from '../protocol/types.ts';
import { messageOf } from '../runs/files.ts';
import { LINEAGE_FILE, readCompareData } from './compareData.ts';
import { webviewHtml } from './html.ts';
import { answerRequests, post, webviewOptions } from './requests.ts';

export const COMPARE_VIEW_TYPE = 'bondwise.compare';

export interface CompareActions {
  /** Selects a layer of the model in the Models view. */
  readonly revealLayer: (folder: string, layer: string) => Promise<void>;
  readonly openFolder: (folder: string) => Promise<void>;
}

export class ComparePanels implements vscode.WebviewPanelSerializer, vscode.Disposable {
  readonly #extension: vscode.Uri;
  readonly #bundles: vscode.Uri;
  readonly #actions: CompareActions;
  readonly #log: vscode.LogOutputChannel;
  readonly #panels = new Map<string, vscode.WebviewPanel>();
  readonly #registration: vscode.Disposable;

  constructor(extension: vscode.Uri, actions: CompareActions, log: vscode.LogOutputChannel) {
    this.#extension = extension;
    this.#bundles = vscode.Uri.joinPath(extension, 'dist', 'webview');
    this.#actions = actions;
    this.#log = log;
    this.#registration = vscode.window.registerWebviewPanelSerializer(COMPARE_VIEW_TYPE, this);
  }

  dispose(): void {
    this.#registration.dispose();
    for (const panel of [...this.#panels.values()]) {
      panel.dispose();
    }
  }

  /** Folders that have a panel open. */
  get open(): readonly string[] {
    return [...this.#panels.keys()];
  }

  show(folder: string): void {
    const existing = this.#panels.get(folder);
    if (existing) {
      existing.reveal();
      return;
    }
    const panel = vscode.window.createWebviewPanel(COMPARE_VIEW_TYPE, titleOf(folder), vscode.ViewColumn.Active, webviewOptions(this.#bundles));
    this.#attach(panel, folder);
  }

  deserializeWebviewPanel(panel: vscode.WebviewPanel, state: unknown): Promise<void> {
    const folder = typeof state === 'object' && state !== null && 'folder' in state ? state.folder : undefined;
    if (typeof folder !== 'string' || !path.isAbsolute(folder)) {
      // Reloaded before it had its data: nothing says which model it was for.
      panel.dispose();
      return Promise.resolve();
    }
    panel.webview.options = webviewOptions(this.#bundles);
    this.#attach(panel, folder);
    return Promise.resolve();
  }

  #attach(panel: vscode.WebviewPanel, folder: string): void {
    this.#panels.set(folder, panel);
    panel.title = titleOf(folder);
    panel.iconPath = vscode.Uri.joinPath(this.#extension, 'extension', 'media', 'icon.png');
    const watcher = vscode.workspace.createFileSystemWatcher(new vscode.RelativePattern(vscode.Uri.file(folder), LINEAGE_FILE));
    const resend = () => {
      this.#send(panel, folder).catch((error: unknown) => this.#log.warn(`compare ${folder}: ${messageOf(error)}`));
    };
    const subscriptions = vscode.Disposable.from(
      watcher,
      watcher.onDidChange(resend),
      watcher.onDidCreate(resend),
      answerRequests(panel.webview, `compare ${folder}`, this.#log, request => this.#do(panel, folder, request)),
    );
    panel.onDidDispose(() => {
      subscriptions.dispose();
      this.#panels.delete(folder);
    });
    panel.webview.html = webviewHtml(panel.webview, this.#bundles, 'compare', panel.title);
  }

  async #do(panel: vscode.WebviewPanel, folder: string, { method, argument }: WebviewRequest): Promise<void> {
    switch (method) {
      case 'ready':
        return this.#send(panel, folder);
      case 'revealLayer':
        return this.#actions.revealLayer(folder, argument ?? '');
      case 'openFolder': {
        // Only the two folders of this comparison: a page must not open others.
        const { original, compressed } = await readCompareData(folder);
        if (argument !== original.path && argument !== compressed.path) {
          throw new Error(`${argument ?? 'nothing'} is not a folder of this comparison.`);
        }
        return this.#actions.openFolder(argument);
      }
      default:
        throw new Error(`This panel does not serve ${method}.`);
    }
  }

  async #send(panel: vscode.WebviewPanel, folder: string): Promise<void> {
    await post(panel.webview, { type: 'compare', data: await readCompareData(folder) });
  }
}

function titleOf(folder: string): string {
  return vscode.l10n.t('Compare: {0}', path.basename(folder));
}
