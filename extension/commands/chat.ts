/** “Chat With Models…”: one model, or two side by side. */
import * as vscode from 'vscode';
import { MOST_MODELS } from '../panels/chat.ts';
import { formatBytes } from '../runs/format.ts';
import type { ModelList } from '../views/modelList.ts';
import { isTreeNode, modelOf } from '../views/modelNodes.ts';
import { oneLine, shortPath } from '../views/text.ts';

/** @param args of a context menu: the row, and all selected rows; or nothing. */
export async function chatWithModels(models: ModelList, show: (folders: readonly string[]) => void, [clicked, selected]: readonly unknown[]): Promise<void> {
  await models.ready();
  const rows = (Array.isArray(selected) && selected.length > 0 ? (selected as readonly unknown[]) : [clicked]).filter(isTreeNode);
  const chosen = new Set(rows.map(node => modelOf(node).entry.folder));
  // In the order of the view, whichever was clicked first.
  const named = models.entries.map(({ folder }) => folder).filter(folder => chosen.has(folder));
  if (named.length > MOST_MODELS) {
    throw new Error(vscode.l10n.t('Select one model, or two to see them side by side.'));
  }
  const folders = named.length > 0 ? named : await pick(models);
  if (folders && folders.length > 0) {
    show(folders);
  }
}

async function pick(models: ModelList): Promise<readonly string[] | undefined> {
  const all = models.entries.flatMap(({ model }) => (model ? [model] : []));
  if (all.length === 0) {
    throw new Error(vscode.l10n.t('There is no model in this window. Add one with “Bondwise: Add Model…”.'));
  }
  if (all.length === 1) {
    return all.map(({ folder }) => folder);
  }
  const items = all.map(model => ({ label: oneLine(model.name, 80), description: formatBytes(model.bytes), detail: shortPath(model.folder), folder: model.folder }));
  const input = vscode.window.createQuickPick<(typeof items)[number]>();
  Object.assign(input, { title: vscode.l10n.t('Chat'), canSelectMany: true, matchOnDetail: true, placeholder: vscode.l10n.t('One model, or two to see them side by side') });
  input.items = items;
  try {
    return await new Promise(resolve => {
      input.onDidChangeSelection(chosen => {
        // The ones that were checked last stay.
        if (chosen.length > MOST_MODELS) {
          input.selectedItems = chosen.slice(-MOST_MODELS);
        }
      });
      input.onDidAccept(() => resolve(input.selectedItems.length > 0 ? input.selectedItems.map(({ folder }) => folder) : undefined));
      input.onDidHide(() => resolve(undefined));
      input.show();
    });
  } finally {
    input.dispose();
  }
}
