/** “Show Model Map”, and what a map can have done: the tree's own commands on the tree's rows. */
import * as vscode from 'vscode';
import type { MapActions, MapPanels } from '../panels/map.ts';
import { isTreeNode, layersOf, modelOf, ModelNode } from '../views/modelNodes.ts';
import { showError } from './register.ts';
import { chooseModel, layerRows, type RowParts, type SensitivityParts } from './sensitivity.ts';

/** Of a row's model, with the row's layers selected; of two models that are selected together side by side; from the palette of one that is chosen. */
export async function showMap(parts: Pick<SensitivityParts, 'models' | 'profiles' | 'view'>, panels: MapPanels, [clicked, selected]: readonly unknown[]): Promise<void> {
  await parts.models.ready();
  if (typeof clicked === 'string') {
    return panels.showWith(clicked, typeof selected === 'string' ? { beside: selected } : {});
  }
  const rows = (Array.isArray(selected) && selected.length > 0 ? (selected as readonly unknown[]) : [clicked]).filter(isTreeNode);
  const [first] = rows;
  const folder = first ? modelOf(first).entry.folder : await chooseModel(parts, vscode.l10n.t('Which model’s map to show'));
  if (folder === undefined) {
    return;
  }
  const layers = rows.filter(row => !(row instanceof ModelNode) && modelOf(row).entry.folder === folder).flatMap(layersOf);
  const beside = rows.map(row => modelOf(row).entry.folder).find(other => other !== folder);
  await panels.showWith(folder, { ...(layers.length > 0 && { layers: layers.map(({ name }) => name) }), ...(beside !== undefined && { beside }) });
}

export function mapActions(parts: RowParts & { readonly log: vscode.LogOutputChannel; readonly revealLayer: MapActions['revealLayer'] }): MapActions {
  return {
    revealLayer: parts.revealLayer,
    layerCommand: async (command, folder, layers) => {
      const nodes = await layerRows(parts, folder, layers);
      await vscode.commands.executeCommand(`bondwise.${command}`, nodes[0], nodes);
    },
    compareTensors: async (folder, other) => {
      await vscode.commands.executeCommand('bondwise.compareTensors', folder, other);
    },
    failed: error => void showError(parts.log, error),
  };
}
