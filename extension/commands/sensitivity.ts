/** “Show Sensitivity”, and what a heatmap can have done. */
import path from 'node:path';
import * as vscode from 'vscode';
import type { SensitivityPanels } from '../panels/sensitivity.ts';
import type { SensitivityActions } from '../panels/sensitivityPanel.ts';
import type { Exclusions } from '../profile/exclusions.ts';
import { outputOf } from '../profile/matching.ts';
import { PROFILE_SUFFIX } from '../profile/read.ts';
import { isActive, stateText } from '../runs/run.ts';
import type { ModelList } from '../views/modelList.ts';
import { isTreeNode, layersOf, modelOf, ModelNode, type TreeNode } from '../views/modelNodes.ts';
import type { ModelsTree } from '../views/modelsTree.ts';
import type { ProfileEntry, ProfileList } from '../views/profileList.ts';
import { RunNode } from '../views/runsTree.ts';
import { oneLine, shortPath } from '../views/text.ts';
import { showError } from './register.ts';

export interface SensitivityParts {
  readonly models: ModelList;
  readonly profiles: ProfileList;
  readonly view: vscode.TreeView<TreeNode>;
  readonly panels: SensitivityPanels;
}

/** Of a profile file, of a run's profile, or of a model; from the palette, of the model that is selected or chosen. */
export async function showSensitivity(parts: SensitivityParts, [clicked, selected]: readonly unknown[]): Promise<void> {
  const file = fileOf(clicked);
  if (file !== undefined) {
    return parts.panels.show(file);
  }
  await parts.models.ready();
  const rows = (Array.isArray(selected) && selected.length > 0 ? (selected as readonly unknown[]) : [clicked]).filter(isTreeNode);
  const [first] = rows;
  const folder = first ? modelOf(first).entry.folder : await chooseModel(parts, vscode.l10n.t('Which model’s sensitivity to show'));
  if (folder === undefined) {
    return;
  }
  const entry = await chooseProfile(await parts.profiles.ofModel(folder), vscode.l10n.t('Which profile to show'));
  if (entry === 'none') {
    return offerProfile(folder, rows);
  }
  if (entry) {
    const layers = rows.filter(row => !(row instanceof ModelNode)).flatMap(layersOf);
    await parts.panels.show(entry.file, layers.length > 0 ? layers.map(layer => layer.name) : undefined);
  }
}

export interface RowParts {
  readonly models: ModelList;
  readonly tree: ModelsTree;
}

/** The tree's rows of some layers. @throws where there are none. */
export async function layerRows({ models, tree }: RowParts, folder: string, layers: readonly string[]): Promise<readonly TreeNode[]> {
  await models.ready();
  if (!models.get(folder)) {
    await models.add(folder);
  }
  const nodes = layers.flatMap(layer => tree.nodeOf(folder, layer) ?? []);
  if (nodes.length === 0) {
    throw new Error(vscode.l10n.t('{0} has none of these layers.', path.basename(folder)));
  }
  return nodes;
}

/** What the heatmap's own menu does, by the same commands as the tree's. */
export function heatmapActions(parts: RowParts & {
  readonly exclusions: Exclusions;
  readonly exchange: SensitivityActions['exchange'];
  readonly log: vscode.LogOutputChannel;
  readonly revealLayer: SensitivityActions['revealLayer'];
  readonly showRun: SensitivityActions['showRun'];
}): SensitivityActions {
  const plan = async (folder: string, profile: string, target?: string) => {
    await vscode.commands.executeCommand('bondwise.planCompression', { folder, profile, exclude: parts.exclusions.get(profile), ...(target === undefined ? {} : { target }) });
  };
  return {
    revealLayer: parts.revealLayer,
    showRun: parts.showRun,
    tensorize: async (folder, layers) => {
      const nodes = await layerRows(parts, folder, layers);
      await vscode.commands.executeCommand('bondwise.tensorize', nodes[0], nodes);
    },
    profile: async (folder, layers, profile) => {
      const nodes = layers.length > 0 ? await layerRows(parts, folder, layers) : [];
      await vscode.commands.executeCommand('bondwise.profileSensitivity', nodes[0] ?? folder, nodes, profile);
    },
    plan,
    exchange: parts.exchange,
    exclude: async (folder, profile, layers) => {
      await parts.exclusions.add(profile, layers);
      const action = vscode.l10n.t('Plan Compression…');
      const count = parts.exclusions.get(profile).length;
      const message = count === 1 ? vscode.l10n.t('1 layer will stay dense in the next plan.') : vscode.l10n.t('{0} layers will stay dense in the next plan.', count);
      if ((await vscode.window.showInformationMessage(message, action)) === action) {
        await plan(folder, profile);
      }
    },
    cancelRun: async directory => {
      await vscode.commands.executeCommand('bondwise.cancelRun', directory);
    },
    failed: error => void showError(parts.log, error),
  };
}

function fileOf(clicked: unknown): string | undefined {
  if (clicked instanceof RunNode) {
    return outputOf(clicked.run);
  }
  const file = clicked instanceof vscode.Uri ? clicked.fsPath : clicked;
  return typeof file === 'string' && file.endsWith(PROFILE_SUFFIX) ? file : undefined;
}

/** The one of the tree's selection, the only one, or the one that the user picks among those that have a profile, else among all. */
export async function chooseModel({ models, profiles, view }: Pick<SensitivityParts, 'models' | 'profiles' | 'view'>, placeHolder: string): Promise<string | undefined> {
  const [selected] = view.selection.map(node => modelOf(node).entry.folder);
  if (selected !== undefined) {
    return selected;
  }
  await profiles.ready();
  const all = models.entries.flatMap(({ model }) => (model ? [model] : []));
  if (all.length === 0) {
    throw new Error(vscode.l10n.t('There is no model in this window. Add one with “Bondwise: Add Model…”.'));
  }
  const profiled = all.filter(model => profiles.sensitivity(model.folder));
  const offered = profiled.length > 0 ? profiled : all;
  const [only] = offered;
  if (offered.length === 1 && only) {
    return only.folder;
  }
  const items = offered.map(model => ({ label: oneLine(model.name, 80), detail: shortPath(model.folder), folder: model.folder }));
  return (await vscode.window.showQuickPick(items, { placeHolder }))?.folder;
}

export async function chooseProfile(entries: readonly ProfileEntry[], placeHolder: string): Promise<ProfileEntry | 'none' | undefined> {
  const [only] = entries;
  if (!only) {
    return 'none';
  }
  if (entries.length === 1) {
    return only;
  }
  const items = entries.map(entry => ({ label: path.basename(entry.file), description: describe(entry), detail: shortPath(entry.file), entry }));
  return (await vscode.window.showQuickPick(items, { placeHolder }))?.entry;
}

function describe({ profile, problem, run }: ProfileEntry): string {
  const working = run && isActive(run.state) ? [stateText(run.state)] : [];
  return profile
    ? [...working, profile.metric, vscode.l10n.t('{0} cells', profile.cells?.length ?? 0), vscode.l10n.t('{0} curves', profile.curves?.length ?? 0), oneLine(profile.data, 40)].join(' · ')
    : [...working, ...(problem === undefined ? [] : [oneLine(problem, 80)])].join(' · ');
}

export async function offerProfile(folder: string, rows: readonly TreeNode[]): Promise<void> {
  const action = vscode.l10n.t('Profile Sensitivity…');
  if ((await vscode.window.showInformationMessage(vscode.l10n.t('{0} has no sensitivity profile yet.', path.basename(folder)), action)) === action) {
    await vscode.commands.executeCommand('bondwise.profileSensitivity', ...(rows.length > 0 ? [rows[0], rows] : [folder]));
  }
}
