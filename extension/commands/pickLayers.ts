/** Which model and which of its layers, asked from the command palette. */
import * as vscode from 'vscode';
import type { Layer, Model } from '../checkpoint/index.ts';
import { selectLayers } from '../plan/selectors.ts';
import { formatBytes, formatParameters } from '../runs/format.ts';
import type { ModelList } from '../views/modelList.ts';
import { shapeText } from '../views/modelItems.ts';
import { canTensorize } from '../views/modelNodes.ts';
import { oneLine, shortPath } from '../views/text.ts';
import { askAll, askText, BACK, OTHER, pickMany, pickOne, type Position } from './quickInput.ts';
import { errorText } from './register.ts';
import type { Chosen } from './tensorize.ts';

interface LayerItem extends vscode.QuickPickItem {
  readonly layer?: Layer;
}

/** Asks for a model, then for layers by a list or by a pattern. @throws when there is no model with layers to tensorize. */
export async function askLayers(models: ModelList): Promise<Chosen | undefined> {
  await models.ready();
  const offered = models.entries.flatMap(({ model }) => (model?.blocks.some(block => block.layers.some(canTensorize)) ? [model] : []));
  if (offered.length === 0) {
    throw new Error(vscode.l10n.t('There is no model with dense layers in this window. Add one with “Bondwise: Add Model…”.'));
  }
  let model: Model | undefined;
  let chosen: Chosen | undefined;
  const title = vscode.l10n.t('Tensorize: which layers');
  const answered = await askAll([
    async position => {
      const answer = await pickModel(offered, { ...position, title });
      if (answer === undefined || answer === BACK) {
        return answer;
      }
      model = answer;
      return 'next';
    },
    async position => {
      const answer = model && (await pickLayers(model, { ...position, title }));
      if (answer === undefined || answer === BACK) {
        return answer;
      }
      chosen = answer;
      return 'next';
    },
  ]);
  return answered ? chosen : undefined;
}

export async function pickModel(models: readonly Model[], position: Position): Promise<Model | typeof BACK | undefined> {
  const items = models.map(model => ({
    label: oneLine(model.name, 80),
    description: `${formatParameters(model.parameters)} · ${formatBytes(model.bytes)}`,
    detail: shortPath(model.folder),
    model,
  }));
  const answer = await pickOne({ position, placeholder: vscode.l10n.t('Choose a model'), items: () => items });
  return answer === undefined || answer === BACK ? answer : answer.model;
}

export async function pickLayers(model: Model, position: Position): Promise<Chosen | typeof BACK | undefined> {
  const other: vscode.QuickInputButton = { iconPath: new vscode.ThemeIcon('regex'), tooltip: vscode.l10n.t('Type a pattern instead') };
  for (;;) {
    const answer = await pickMany<LayerItem>({ position, items: layerItems(model), placeholder: checkedText, other });
    if (answer === undefined || answer === BACK) {
      return answer;
    }
    if (answer !== OTHER) {
      const layers = answer.flatMap(({ layer }) => layer ?? []);
      return { model, layers, patterns: layers.map(layer => layer.name) };
    }
    const typed = await askPattern(model, position);
    if (typed !== BACK) {
      return typed;
    }
  }
}

/** A pattern, with what it matches told as it is typed. */
async function askPattern(model: Model, position: Position): Promise<Chosen | typeof BACK | undefined> {
  const pattern = await askText({
    position,
    value: '',
    prompt: vscode.l10n.t('A layer name, a glob such as {0}, or {1}', '*.mlp.gate_proj', 're:layers\\.(1[0-9])\\..*q_proj'),
    placeholder: '*.self_attn.q_proj',
    validate: text => Promise.resolve(patternMessage(model, text)),
  });
  if (typeof pattern !== 'string') {
    return pattern;
  }
  const all = selectLayers(model, [pattern]);
  const layers = all.filter(canTensorize);
  // A pattern that also matches what cannot be tensorized would be refused: then the layers are named one by one.
  return { model, layers, patterns: layers.length === all.length ? [pattern] : layers.map(layer => layer.name) };
}

export function patternMessage(model: Model, pattern: string): vscode.InputBoxValidationMessage | undefined {
  const { Error, Info } = vscode.InputBoxValidationSeverity;
  if (pattern === '') {
    return { message: vscode.l10n.t('Type a pattern.'), severity: Error };
  }
  let layers: readonly Layer[];
  try {
    layers = selectLayers(model, [pattern]).filter(canTensorize);
  } catch (error) {
    return { message: errorText(error), severity: Error };
  }
  const [first] = layers;
  if (!first) {
    return { message: vscode.l10n.t('“{0}” matches only layers that are tensorized or quantized already.', oneLine(pattern, 80)), severity: Error };
  }
  const count = layers.length === 1 ? vscode.l10n.t('1 layer') : vscode.l10n.t('{0} layers', layers.length);
  const parameters = formatParameters(layers.reduce((sum, layer) => sum + layer.parameters, 0));
  return { message: vscode.l10n.t('Matches {0}, {1} parameters: {2}', count, parameters, `${first.name}${layers.length > 1 ? ' …' : ''}`), severity: Info };
}

function layerItems(model: Model): readonly LayerItem[] {
  return model.blocks.flatMap(block => {
    const layers = block.layers.filter(canTensorize);
    return layers.length === 0
      ? []
      : [
          { label: vscode.l10n.t('Block {0}', block.index), kind: vscode.QuickPickItemKind.Separator },
          ...layers.map(layer => ({ label: layer.name, description: `${shapeText(layer.shape)} · ${formatBytes(layer.bytes)}`, layer })),
        ];
  });
}

function checkedText(checked: readonly LayerItem[]): string {
  if (checked.length === 0) {
    return vscode.l10n.t('Check layers; type to filter, such as q_proj; the button in the title takes a pattern');
  }
  const parameters = checked.reduce((sum, { layer }) => sum + (layer?.parameters ?? 0), 0);
  return vscode.l10n.t('{0} layers, {1} parameters', checked.length, formatParameters(parameters));
}
