/** What a user does with models as such: add, remove, reveal, copy, compare; and getting the sample. */
import { stat } from 'node:fs/promises';
import path from 'node:path';
import * as vscode from 'vscode';
import type { RunRequest } from '../protocol/types.ts';
import { compressedBy } from '../runs/run.ts';
import type { RunStore } from '../runs/store.ts';
import type { ModelList } from '../views/modelList.ts';
import { isTreeNode, LayerNode, modelOf, TensorNode, type TreeNode } from '../views/modelNodes.ts';
import type { ModelsTree } from '../views/modelsTree.ts';
import { shortPath } from '../views/text.ts';
import { RunNode } from '../views/runsTree.ts';
import type { EngineCommands } from './engine.ts';
import type { Handler } from './register.ts';
import { openFolder } from './runs.ts';
import { requestBase, runRootFor, startRun } from './startRun.ts';

const SAMPLE_NAME = 'SmolLM2-135M-Instruct';

export interface ModelParts {
  readonly models: ModelList;
  readonly tree: ModelsTree;
  readonly view: vscode.TreeView<TreeNode>;
  readonly runs: RunStore;
  readonly engine: EngineCommands;
  readonly storage: vscode.Uri;
  readonly showRun: (directory: string) => Promise<void>;
  readonly compare: (folder: string) => void;
}

export function modelCommands(parts: ModelParts): Record<string, Handler> {
  const { models } = parts;
  return {
    addModel: () => addModel(parts),
    openInBondwise: (...args) => openInBondwise(parts, args),
    refreshModels: () => models.refresh(),
    removeModel: async (...args) => {
      for (const folder of foldersOf(args)) {
        await models.remove(folder);
      }
    },
    revealModel: async (...args) => {
      const [folder] = foldersOf(args);
      if (folder !== undefined) {
        await openFolder(folder);
      }
    },
    copyPath: (...args) => vscode.env.clipboard.writeText(foldersOf(args).join('\n')),
    copyName: (...args) => vscode.env.clipboard.writeText(namesOf(args).join('\n')),
    compare: async (...args) => {
      const folder = await compressedFolder(parts, args);
      if (folder !== undefined) {
        parts.compare(folder);
      }
    },
    getSampleModel: () => getSampleModel(parts),
  };
}

/** Selects a model, or a layer of it, in the Models view. @throws when it is not there. */
export async function showModel({ models, tree, view }: Pick<ModelParts, 'models' | 'tree' | 'view'>, folder: string, layer?: string): Promise<void> {
  await models.ready();
  if (!models.get(folder)) {
    await models.add(folder);
  }
  const node = tree.nodeOf(folder, layer);
  if (!node) {
    throw new Error(
      layer === undefined
        ? vscode.l10n.t('{0} is not there any more.', shortPath(folder))
        : vscode.l10n.t('{0} has no layer {1}.', path.basename(folder), layer),
    );
  }
  await view.reveal(node, { select: true, focus: true, expand: layer === undefined });
}

async function addModel(parts: ModelParts): Promise<void> {
  const chosen = await vscode.window.showOpenDialog({
    canSelectFiles: false,
    canSelectFolders: true,
    canSelectMany: true,
    openLabel: vscode.l10n.t('Add Model'),
    title: vscode.l10n.t('Folders with config.json and .safetensors files'),
  });
  await add(parts, chosen ?? []);
}

/** From the Explorer: folders, or files in them. */
async function openInBondwise(parts: ModelParts, [clicked, all]: readonly unknown[]): Promise<void> {
  const uris = (Array.isArray(all) ? (all as readonly unknown[]) : [clicked]).filter(uri => uri instanceof vscode.Uri);
  await add(parts, uris);
}

async function add(parts: ModelParts, uris: readonly vscode.Uri[]): Promise<void> {
  const folders = new Set<string>();
  for (const uri of uris) {
    const isFile = (await stat(uri.fsPath)).isFile();
    folders.add(isFile ? path.dirname(uri.fsPath) : uri.fsPath);
  }
  let last: string | undefined;
  for (const folder of folders) {
    const entry = await parts.models.add(folder);
    if (entry?.problem) {
      // Asked for just now, so the reason is told at once; a row that can only say no is not kept.
      await parts.models.forget(folder);
      throw Object.assign(new Error(entry.problem.message), { remedy: entry.problem.remedy });
    }
    last = folder;
  }
  if (last !== undefined) {
    await showModel(parts, last);
  }
}

/** The model of a row, of a run, of the selection; else the one the user picks among compressed ones. */
async function compressedFolder({ models, view }: ModelParts, [clicked]: readonly unknown[]): Promise<string | undefined> {
  if (typeof clicked === 'string') {
    return clicked;
  }
  if (clicked instanceof RunNode) {
    return compressedBy(clicked.run);
  }
  if (isTreeNode(clicked)) {
    return modelOf(clicked).entry.folder;
  }
  await models.ready();
  const compressed = models.entries.flatMap(({ model }) => (model?.lineage ? [model] : []));
  const [selected] = view.selection.map(node => modelOf(node).entry.folder);
  const [only] = compressed;
  if (selected !== undefined && compressed.some(model => model.folder === selected)) {
    return selected;
  }
  if (compressed.length === 1 && only) {
    return only.folder;
  }
  const items = compressed.map(model => ({ label: model.name, description: model.lineage?.base.name ?? '', detail: shortPath(model.folder), folder: model.folder }));
  return (await vscode.window.showQuickPick(items, { placeHolder: vscode.l10n.t('Which model to compare with its original') }))?.folder;
}

/** Asks where, then starts the run that brings the sample. */
async function getSampleModel(parts: ModelParts): Promise<void> {
  const folder = vscode.workspace.workspaceFolders?.[0]?.uri;
  const parent = await sampleParent(folder);
  if (!parent) {
    return;
  }
  const output = path.join(parent.fsPath, SAMPLE_NAME);
  const there = await stat(path.join(output, 'config.json')).then(
    () => true,
    () => false,
  );
  if (there) {
    await showModel(parts, output);
    return;
  }
  const request: RunRequest = {
    kind: 'sample-model',
    ...requestBase(vscode.l10n.t('Get sample model'), parent),
    options: { output },
  };
  const directory = await startRun(parts.engine, parts.runs, runRootFor(output, parts.storage), request);
  if (directory !== undefined) {
    await parts.showRun(directory);
  }
}

async function sampleParent(folder: vscode.Uri | undefined): Promise<vscode.Uri | undefined> {
  const browse = vscode.l10n.t('Choose another folder…');
  if (folder) {
    const models = vscode.Uri.joinPath(folder, 'models');
    const items = [
      { label: vscode.l10n.t('In this workspace'), description: shortPath(path.join(models.fsPath, SAMPLE_NAME)), parent: models },
      { label: browse, description: '', parent: undefined },
    ];
    const chosen = await vscode.window.showQuickPick(items, {
      title: vscode.l10n.t('Get Sample Model'),
      placeHolder: vscode.l10n.t('Where to put {0} (93 MB to download, 273 MB on disk)', SAMPLE_NAME),
    });
    if (!chosen || chosen.parent) {
      return chosen?.parent;
    }
  }
  const picked = await vscode.window.showOpenDialog({
    canSelectFiles: false,
    canSelectFolders: true,
    openLabel: vscode.l10n.t('Put It Here'),
    title: vscode.l10n.t('Folder for {0}', SAMPLE_NAME),
  });
  return picked?.[0];
}

function foldersOf([clicked, selected]: readonly unknown[]): readonly string[] {
  const nodes = (Array.isArray(selected) && selected.length > 0 ? (selected as readonly unknown[]) : [clicked]).filter(isTreeNode);
  return [...new Set(nodes.map(node => modelOf(node).entry.folder))];
}

function namesOf([clicked, selected]: readonly unknown[]): readonly string[] {
  const nodes = Array.isArray(selected) && selected.length > 0 ? (selected as readonly unknown[]) : [clicked];
  return nodes.flatMap(node => (node instanceof LayerNode ? [node.layer.name] : node instanceof TensorNode ? [node.tensor.name] : []));
}
