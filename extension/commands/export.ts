/** “Export…”: a compressed or quantized model as its base architecture, for tools that know no other. */
import path from 'node:path';
import * as vscode from 'vscode';
import { type Model, openModel } from '../checkpoint/index.ts';
import type { RunRequest } from '../protocol/types.ts';
import { formatBytes } from '../runs/format.ts';
import { isTreeNode, modelOf } from '../views/modelNodes.ts';
import { oneLine } from '../views/text.ts';
import { withConsent } from './consent.ts';
import { pickModel } from './pickLayers.ts';
import { askAll, askText, pickOne, taken } from './quickInput.ts';
import { requestBase, runRootFor, startRun } from './startRun.ts';
import type { TensorizeParts } from './tensorize.ts';
import { checkOutput } from './tensorizeSteps.ts';

export async function exportModel(parts: TensorizeParts, [clicked]: readonly unknown[]): Promise<void> {
  await parts.models.ready();
  const compressed = parts.models.entries.flatMap(({ model }) => (model?.lineage ? [model] : []));
  const named = typeof clicked === 'string' ? clicked : undefined;
  let model: Model | undefined = isTreeNode(clicked) ? modelOf(clicked).entry.model : named !== undefined ? (parts.models.get(named)?.model ?? (await openModel(named))) : compressed.length === 1 ? compressed[0] : undefined;
  if ((compressed.length === 0 && !model) || (model && !model.lineage)) {
    throw new Error(vscode.l10n.t('Only a compressed or quantized model can be exported: others are what other tools load already.'));
  }
  const ask = model === undefined;
  let name = '';
  const title = vscode.l10n.t('Export');
  const answered = await askAll(() => [
    ...(ask ? [async (position: { readonly step: number; readonly totalSteps: number }) => taken(await pickModel(compressed, { ...position, title }), answer => (model = answer))] : []),
    async position => taken(await pickOne({ position: { ...position, title }, placeholder: vscode.l10n.t('As what'), items: () => [denseItem(model)] }), () => undefined),
    async position => {
      const folder = path.dirname(model?.folder ?? '');
      const answer = await askText({
        position: { ...position, title },
        value: `${path.basename(model?.folder ?? '')}-dense`,
        prompt: vscode.l10n.t('Name of the new folder, beside the model. Enter starts the run.'),
        validate: text => checkOutput(folder, text, { folder: model?.folder ?? '' }),
      });
      return taken(answer, given => (name = given));
    },
  ]);
  if (!answered || !model) {
    return;
  }
  const request = await withConsent(parts.context, model, exportRequest(model, path.join(path.dirname(model.folder), name)));
  const directory = request && (await startRun(parts.engine, parts.runs, runRootFor(model.folder, parts.storage), request));
  if (directory !== undefined) {
    await parts.showRun(directory);
  }
}

export function exportRequest(model: Pick<Model, 'folder' | 'name'>, output: string): RunRequest {
  return { kind: 'export', ...requestBase(vscode.l10n.t('Export {0}', oneLine(model.name, 60)), vscode.Uri.file(model.folder)), model: model.folder, options: { dense: true, output } };
}

function denseItem(model: Model | undefined): vscode.QuickPickItem {
  return {
    label: vscode.l10n.t('Dense weights, base architecture'),
    description: model ? vscode.l10n.t('from {0}', formatBytes(model.bytes)) : '',
    detail: model?.lineage?.quantization
      ? vscode.l10n.t('For GGUF converters, vLLM: this model’s accuracy, its bits written out, full size.')
      : vscode.l10n.t('For GGUF converters, vLLM: this model’s accuracy at the size of the original.'),
  };
}
