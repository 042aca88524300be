/** The heatmap: a read-only editor of NAME.sensitivity.json, also before the run that will write the file has done so. */
import path from 'node:path';
import * as vscode from 'vscode';
import type { ProfileList } from '../views/profileList.ts';
import type { RunStore } from '../runs/store.ts';
import { webviewHtml } from './html.ts';
import type { LayerSelection } from './layerSelection.ts';
import type { PlanOverlays } from './planOverlays.ts';
import { webviewOptions } from './requests.ts';
import { type SensitivityActions, SensitivityPanel } from './sensitivityPanel.ts';

export const SENSITIVITY_VIEW_TYPE = 'bondwise.sensitivity';

export interface SensitivityParts {
  readonly extension: vscode.Uri;
  readonly profiles: ProfileList;
  readonly runs: RunStore;
  readonly selection: LayerSelection;
  readonly plans: PlanOverlays;
  readonly log: vscode.LogOutputChannel;
  readonly actions: SensitivityActions;
}

export class SensitivityPanels implements vscode.CustomReadonlyEditorProvider, vscode.Disposable {
  readonly #parts: SensitivityParts;
  readonly #bundles: vscode.Uri;
  readonly #panels = new Set<SensitivityPanel>();
  readonly #registration: vscode.Disposable;
  /** Selected before the panel was there. */
  readonly #waiting = new Map<string, readonly string[]>();

  constructor(parts: SensitivityParts) {
    this.#parts = parts;
    this.#bundles = vscode.Uri.joinPath(parts.extension, 'dist', 'webview');
    this.#registration = vscode.window.registerCustomEditorProvider(SENSITIVITY_VIEW_TYPE, this, { supportsMultipleEditorsPerDocument: true });
  }

  dispose(): void {
    this.#registration.dispose();
    this.#panels.forEach(panel => panel.dispose());
  }

  /** The panels that are open, in the order in which they were opened. */
  get open(): readonly SensitivityPanel[] {
    return [...this.#panels];
  }

  /** Opens the heatmap of a profile, or brings it to the front, with some layers selected. The file need not be there yet. */
  async show(file: string, layers?: readonly string[]): Promise<void> {
    const shown = this.open.filter(panel => panel.file === file);
    if (layers) {
      if (shown.length === 0) {
        this.#waiting.set(file, layers);
      }
      await Promise.all(shown.map(panel => panel.select(layers)));
    }
    await vscode.commands.executeCommand('vscode.openWith', vscode.Uri.file(file), SENSITIVITY_VIEW_TYPE);
  }

  openCustomDocument(uri: vscode.Uri): vscode.CustomDocument {
    return { uri, dispose: () => undefined };
  }

  resolveCustomEditor({ uri }: vscode.CustomDocument, view: vscode.WebviewPanel): void {
    const file = uri.fsPath;
    view.webview.options = webviewOptions(this.#bundles);
    const panel = new SensitivityPanel(file, view.webview, this.#parts, this.#waiting.get(file));
    this.#waiting.delete(file);
    this.#panels.add(panel);
    view.onDidDispose(() => {
      panel.dispose();
      this.#panels.delete(panel);
    });
    view.webview.html = webviewHtml(view.webview, this.#bundles, 'sensitivity', path.basename(file));
  }
}
