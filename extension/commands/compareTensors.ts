/** “Compare Tensors With…”: two models whose tensors are compared, the changes of the second relative to the first. */
import { openCheckpoint } from 'safetensors-ts';
import path from 'node:path';
import * as vscode from 'vscode';
import type { DiffPanels } from '../panels/diff.ts';
import { isRelated } from '../panels/mapData.ts';
import { isTreeNode, modelOf } from '../views/modelNodes.ts';
import { oneLine, shortPath } from '../views/text.ts';
import { chooseModel, type SensitivityParts } from './sensitivity.ts';

type Parts = Pick<SensitivityParts, 'models' | 'profiles' | 'view'>;

/** Of a row's model, of two that are selected together, of the model of a weight file; from the palette of one that is chosen. */
export async function compareTensors(parts: Parts, panels: DiffPanels, [clicked, selected]: readonly unknown[]): Promise<void> {
  await parts.models.ready();
  const [first, second] = await foldersOf(clicked, selected);
  const one = first ?? (await chooseModel(parts, vscode.l10n.t('Which model’s tensors to compare')));
  const two = one === undefined ? undefined : (second ?? (await chooseOther(parts, one)));
  if (one !== undefined && two !== undefined) {
    // A change is relative to the original, where one was made from the other.
    const [model, other] = isMadeFrom(parts, one, two) ? [two, one] : [one, two];
    panels.compare(model, other);
  }
}

async function foldersOf(clicked: unknown, selected: unknown): Promise<readonly string[]> {
  if (typeof clicked === 'string') {
    return typeof selected === 'string' ? [clicked, selected] : [clicked];
  }
  if (clicked instanceof vscode.Uri) {
    const folder = path.dirname(clicked.fsPath);
    await openCheckpoint(folder);
    return [folder];
  }
  const rows = (Array.isArray(selected) && selected.length > 0 ? (selected as readonly unknown[]) : [clicked]).filter(isTreeNode);
  return [...new Set(rows.map(row => modelOf(row).entry.folder))];
}

function isMadeFrom({ models }: Parts, made: string, from: string): boolean {
  const lineage = models.get(made)?.model?.lineage;
  const sources = [lineage?.base.path, lineage?.quantization?.source.path];
  return sources.some(source => source !== undefined && path.resolve(made, source) === path.resolve(from));
}

/** Related ones first, or a folder that is not in the view. */
async function chooseOther({ models }: Parts, folder: string): Promise<string | undefined> {
  const all = models.entries.flatMap(({ model }) => (model && model.folder !== folder ? [model] : []));
  const own = models.get(folder)?.model;
  const related = (model: (typeof all)[number]) => own !== undefined && isRelated(own, model);
  const items = all
    .toSorted((a, b) => Number(related(b)) - Number(related(a)))
    .map(model => ({ label: oneLine(model.name, 80), description: related(model) ? vscode.l10n.t('of the same origin') : '', detail: shortPath(model.folder), folder: model.folder }));
  const browse = { label: vscode.l10n.t('Choose another folder…'), description: '', detail: '', folder: undefined };
  const placeHolder = vscode.l10n.t('Compare the tensors of {0} with those of', path.basename(folder));
  const chosen = items.length > 0 ? await vscode.window.showQuickPick([...items, browse], { placeHolder }) : browse;
  if (!chosen || chosen.folder !== undefined) {
    return chosen?.folder;
  }
  const [picked] = (await vscode.window.showOpenDialog({ canSelectFiles: false, canSelectFolders: true, openLabel: vscode.l10n.t('Compare'), title: placeHolder })) ?? [];
  return picked?.fsPath;
}
