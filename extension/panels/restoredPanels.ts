/** Webview panels, one for each place on disk, that come back after a reload: their state keeps the place, and never data. */
import path from 'node:path';
import * as vscode from 'vscode';
import { webviewHtml } from './html.ts';
import { webviewOptions } from './requests.ts';

export interface PanelKind {
  readonly viewType: string;
  /** Of dist/webview. */
  readonly bundle: string;
  /** Name in the webview's state of the absolute path that the panel is for. */
  readonly key: string;
  readonly title: (place: string) => string;
  /** Serves a panel until what it returns is disposed of. */
  readonly serve: (panel: vscode.WebviewPanel, place: string) => { dispose(): void };
}

export class RestoredPanels implements vscode.WebviewPanelSerializer, vscode.Disposable {
  readonly #extension: vscode.Uri;
  readonly #bundles: vscode.Uri;
  readonly #kind: PanelKind;
  readonly #panels = new Map<string, vscode.WebviewPanel>();
  readonly #registration: vscode.Disposable;

  constructor(extension: vscode.Uri, kind: PanelKind) {
    this.#extension = extension;
    this.#bundles = vscode.Uri.joinPath(extension, 'dist', 'webview');
    this.#kind = kind;
    this.#registration = vscode.window.registerWebviewPanelSerializer(kind.viewType, this);
  }

  dispose(): void {
    this.#registration.dispose();
    for (const panel of [...this.#panels.values()]) {
      panel.dispose();
    }
  }

  /** Places that have a panel open. */
  get open(): readonly string[] {
    return [...this.#panels.keys()];
  }

  /** Whether a place's panel is in sight. */
  isVisible(place: string): boolean {
    return this.#panels.get(place)?.visible ?? false;
  }

  show(place: string): void {
    const existing = this.#panels.get(place);
    if (existing) {
      existing.reveal();
      return;
    }
    const panel = vscode.window.createWebviewPanel(this.#kind.viewType, this.#kind.title(place), vscode.ViewColumn.Active, webviewOptions(this.#bundles));
    this.#attach(panel, place);
  }

  deserializeWebviewPanel(panel: vscode.WebviewPanel, state: unknown): Promise<void> {
    const place: unknown = typeof state === 'object' && state !== null ? Reflect.get(state, this.#kind.key) : undefined;
    if (typeof place !== 'string' || !path.isAbsolute(place)) {
      // Reloaded before it had its data: nothing says what it was for.
      panel.dispose();
      return Promise.resolve();
    }
    panel.webview.options = webviewOptions(this.#bundles);
    this.#attach(panel, place);
    return Promise.resolve();
  }

  #attach(panel: vscode.WebviewPanel, place: string): void {
    this.#panels.set(place, panel);
    panel.title = this.#kind.title(place);
    panel.iconPath = vscode.Uri.joinPath(this.#extension, 'extension', 'media', 'icon.png');
    const served = this.#kind.serve(panel, place);
    panel.onDidDispose(() => {
      served.dispose();
      this.#panels.delete(place);
    });
    panel.webview.html = webviewHtml(panel.webview, this.#bundles, this.#kind.bundle, panel.title);
  }
}
