/** The host's side of the compare panel: one panel a compressed model, restored from its folder after a reload. */
import path from 'node:path';
import * as vscode from 'vscode';
import type { WebviewRequest } from '../protocol/types.ts';
import { messageOf } from '../runs/files.ts';
import { LINEAGE_FILE, readCompareData } from './compareData.ts';
import { answerRequests, post } from './requests.ts';
import { RestoredPanels } from './restoredPanels.ts';

export const COMPARE_VIEW_TYPE = 'bondwise.compare';

export interface CompareActions {
  /** Selects a layer of the model in the Models view. */
  readonly revealLayer: (folder: string, layer: string) => Promise<void>;
  readonly openFolder: (folder: string) => Promise<void>;
  /** Both models side by side, layer by layer. */
  readonly showMap: (folder: string, beside: string) => Promise<void>;
}

export class ComparePanels extends RestoredPanels {
  constructor(extension: vscode.Uri, actions: CompareActions, log: vscode.LogOutputChannel) {
    super(extension, {
      viewType: COMPARE_VIEW_TYPE,
      bundle: 'compare',
      key: 'folder',
      title: folder => vscode.l10n.t('Compare: {0}', path.basename(folder)),
      serve: ({ webview }, folder) => {
        const watcher = vscode.workspace.createFileSystemWatcher(new vscode.RelativePattern(vscode.Uri.file(folder), LINEAGE_FILE));
        const resend = () => {
          send(webview, folder).catch((error: unknown) => log.warn(`compare ${folder}: ${messageOf(error)}`));
        };
        return vscode.Disposable.from(
          watcher,
          watcher.onDidChange(resend),
          watcher.onDidCreate(resend),
          answerRequests(webview, `compare ${folder}`, log, request => answer(webview, folder, actions, request)),
        );
      },
    });
  }
}

async function answer(webview: vscode.Webview, folder: string, actions: CompareActions, { method, argument }: WebviewRequest): Promise<void> {
  switch (method) {
    case 'ready':
      return send(webview, folder);
    case 'revealLayer':
      return actions.revealLayer(folder, argument ?? '');
    case 'showMap': {
      const { original, compressed } = await readCompareData(folder);
      return actions.showMap(original.path, compressed.path);
    }
    case 'openFolder': {
      // Only the folders of this comparison: a page must not open others.
      const { original, compressed, healed } = await readCompareData(folder);
      if (argument === undefined || argument === null || ![original.path, compressed.path, healed?.path].includes(argument)) {
        throw new Error(`${argument ?? 'nothing'} is not a folder of this comparison.`);
      }
      return actions.openFolder(argument);
    }
    default:
      throw new Error(`This panel does not serve ${method}.`);
  }
}

async function send(webview: vscode.Webview, folder: string): Promise<void> {
  await post(webview, { type: 'compare', data: await readCompareData(folder) });
}
