/** The report of a benchmark: a read-only editor of NAME.benchmark.json, also before the run that will write the file has done so. */
import path from 'node:path';
import * as vscode from 'vscode';
import type { RunStore } from '../runs/store.ts';
import { webviewHtml } from './html.ts';
import { type ReportActions, ReportPanel } from './reportPanel.ts';
import { webviewOptions } from './requests.ts';

export const REPORT_VIEW_TYPE = 'bondwise.benchmark';

export interface ReportParts {
  readonly extension: vscode.Uri;
  readonly runs: RunStore;
  readonly log: vscode.LogOutputChannel;
  readonly actions: ReportActions;
}

export class ReportPanels implements vscode.CustomReadonlyEditorProvider, vscode.Disposable {
  readonly #parts: ReportParts;
  readonly #bundles: vscode.Uri;
  readonly #panels = new Set<ReportPanel>();
  readonly #registration: vscode.Disposable;

  constructor(parts: ReportParts) {
    this.#parts = parts;
    this.#bundles = vscode.Uri.joinPath(parts.extension, 'dist', 'webview');
    this.#registration = vscode.window.registerCustomEditorProvider(REPORT_VIEW_TYPE, this, { supportsMultipleEditorsPerDocument: true });
  }

  dispose(): void {
    this.#registration.dispose();
    this.#panels.forEach(panel => panel.dispose());
  }

  get open(): readonly ReportPanel[] {
    return [...this.#panels];
  }

  /** Opens a report, or brings it to the front. The file need not be there yet. */
  async show(file: string): Promise<void> {
    await vscode.commands.executeCommand('vscode.openWith', vscode.Uri.file(file), REPORT_VIEW_TYPE);
  }

  openCustomDocument(uri: vscode.Uri): vscode.CustomDocument {
    return { uri, dispose: () => undefined };
  }

  resolveCustomEditor({ uri }: vscode.CustomDocument, view: vscode.WebviewPanel): void {
    const file = uri.fsPath;
    view.webview.options = webviewOptions(this.#bundles);
    const panel = new ReportPanel(file, view.webview, this.#parts);
    this.#panels.add(panel);
    view.onDidDispose(() => {
      panel.dispose();
      this.#panels.delete(panel);
    });
    view.webview.html = webviewHtml(view.webview, this.#bundles, 'report', path.basename(file));
  }
}
