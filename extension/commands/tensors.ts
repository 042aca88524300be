/** “Show Tensors”: the tensors of a weight file, or of the file that holds what was clicked. */
import path from 'node:path';
import { type Checkpoint, openCheckpoint } from 'safetensors-ts';
import * as vscode from 'vscode';
import type { TensorsEditors } from '../panels/tensors.ts';
import { formatBytes } from '../runs/format.ts';
import { isTreeNode, LayerNode, layersOf, modelOf, TensorNode, TensorsNode, type TreeNode } from '../views/modelNodes.ts';
import { oneLine } from '../views/text.ts';

export async function showTensors(editors: TensorsEditors, [clicked]: readonly unknown[]): Promise<void> {
  if (clicked instanceof vscode.Uri) {
    return editors.show(clicked.fsPath);
  }
  if (!isTreeNode(clicked)) {
    const [picked] = (await vscode.window.showOpenDialog({ canSelectMany: false, openLabel: vscode.l10n.t('Show Tensors'), filters: { safetensors: ['safetensors'] } })) ?? [];
    return picked && editors.show(picked.fsPath);
  }
  const checkpoint = await openCheckpoint(modelOf(clicked).entry.folder);
  const wanted = wantedOf(clicked);
  const found = wanted && tensorOf(checkpoint, wanted);
  const file = found?.file ?? (await pickFile(checkpoint));
  return file === undefined ? undefined : editors.show(file, found?.name);
}

/** Whether a tensor is what a row stands for; undefined for rows that stand for the whole model. */
function wantedOf(node: TreeNode): ((tensor: string) => boolean) | undefined {
  if (node instanceof TensorNode) {
    return name => name === node.tensor.name;
  }
  if (node instanceof TensorsNode) {
    const names = new Set(node.group.tensors.map(({ name }) => name));
    return name => names.has(name);
  }
  if (node instanceof LayerNode) {
    return name => name.startsWith(`${node.layer.name}.`);
  }
  const layers = 'entry' in node ? [] : layersOf(node);
  return layers.length > 0 ? name => layers.some(layer => name.startsWith(`${layer.name}.`)) : undefined;
}

function tensorOf({ files }: Checkpoint, isWanted: (tensor: string) => boolean): { readonly file: string; readonly name: string } | undefined {
  for (const { path: file, tensors } of files) {
    for (const name of tensors.keys()) {
      if (isWanted(name)) {
        return { file, name };
      }
    }
  }
  return undefined;
}

/** Asks only where there are several. */
async function pickFile({ files }: Checkpoint): Promise<string | undefined> {
  if (files.length < 2) {
    return files[0]?.path;
  }
  const items = files.map(({ path: file, size, tensors }) => ({
    label: oneLine(path.basename(file), 80),
    description: vscode.l10n.t('{0} tensors, {1}', tensors.size, formatBytes(size)),
    file,
  }));
  return (await vscode.window.showQuickPick(items, { placeHolder: vscode.l10n.t('Which shard to show') }))?.file;
}
