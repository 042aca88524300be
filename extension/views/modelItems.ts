/** How the rows of the Models view look. */
import path from 'node:path';
import * as vscode from 'vscode';
import { type Layer, type Model, type OtherGroup, reasonOf, type Tensor } from '../checkpoint/index.ts';
import { worstOf } from '../profile/levels.ts';
import type { Evaluation } from '../protocol/types.ts';
import { formatBytes, formatCount, formatParameters, formatPercent } from '../runs/format.ts';
import { blockUri, layerUri, modelUri, type SensitivityMark } from './decorations.ts';
import { healedPerplexity } from './healText.ts';
import { formatMeasured, formatShare } from './measured.ts';
import { BlockNode, canTensorize, GroupNode, idOf, LayerNode, ModelNode, ProblemNode, TensorNode, TensorsNode, type TreeNode } from './modelNodes.ts';
import type { ModelSensitivity } from './profileList.ts';
import { levelText, riseText, sensitivityText } from './sensitivityText.ts';
import { oneLine, shortPath, tooltip } from './text.ts';

interface Look {
  readonly label: string;
  /** The most important first, because a narrow view cuts it. */
  readonly description: string;
  /** What there is no room for: said by a screen reader, shown in the tooltip. */
  readonly more?: readonly string[];
  readonly icon: string;
  readonly color?: string;
  readonly contextValue: string;
  readonly expandable: boolean;
  readonly uri?: vscode.Uri;
}

/** @param found what a profile says of the row's model. */
export function treeItem(node: TreeNode, found?: ModelSensitivity): vscode.TreeItem {
  const look = lookOf(node, found);
  const { None, Collapsed } = vscode.TreeItemCollapsibleState;
  const item = new vscode.TreeItem(look.label, look.expandable ? Collapsed : None);
  item.id = idOf(node);
  item.description = look.description;
  item.iconPath = new vscode.ThemeIcon(look.icon, look.color ? new vscode.ThemeColor(look.color) : undefined);
  item.contextValue = look.contextValue;
  item.accessibilityInformation = { label: [look.label, ...look.description.split(' · '), ...(look.more ?? [])].filter(Boolean).join(', ') };
  if (look.uri) {
    item.resourceUri = look.uri;
  }
  return item;
}

/** Made when the pointer rests on the row, not before. */
export function treeTooltip(node: TreeNode, found?: ModelSensitivity): vscode.MarkdownString {
  if (node instanceof ModelNode) {
    return node.entry.problem ? tooltip(node.entry.problem.message, [node.entry.problem.remedy]) : modelTooltip(node);
  }
  if (node instanceof ProblemNode) {
    return tooltip(node.problem.message, node.problem.remedy ? [node.problem.remedy] : []);
  }
  if (node instanceof LayerNode) {
    return tooltip(node.layer.name, layerLines(node.layer, node.model, found));
  }
  if (node instanceof TensorNode) {
    return tooltip(node.tensor.name, [
      [vscode.l10n.t('Shape'), shapeText(node.tensor.shape)],
      [vscode.l10n.t('Type'), node.tensor.dtype],
      [vscode.l10n.t('Parameters'), formatCount(node.tensor.parameters)],
      [vscode.l10n.t('Size'), formatBytes(node.tensor.bytes)],
    ]);
  }
  const { label, description, more = [] } = lookOf(node, found);
  return tooltip(node instanceof BlockNode ? node.block.name : label, [description, ...more]);
}

/** `dense`, `MPO χ 64, 31% kept`, `quantized nf4`. */
export function stateText(layer: Layer): string {
  switch (layer.state) {
    case 'dense':
      return vscode.l10n.t('dense');
    case 'mpo':
      return [
        layer.keep === undefined ? vscode.l10n.t('MPO χ {0}', bondsOf(layer)) : vscode.l10n.t('MPO χ {0}, {1} kept', bondsOf(layer), formatPercent(layer.keep)),
        ...(layer.scheme === undefined ? [] : [vscode.l10n.t('quantized {0}', oneLine(layer.scheme, 40))]),
      ].join(', ');
    case 'quantized':
      return vscode.l10n.t('quantized {0}', oneLine(layer.scheme ?? '', 40));
  }
}

/** What a row says first of a layer that is not as it was trained. */
function stateParts(layer: Layer): string[] {
  if (layer.state === 'dense') {
    return [];
  }
  return layer.keep === undefined ? [stateText(layer)] : [vscode.l10n.t('{0} kept', formatPercent(layer.keep)), ...(layer.scheme === undefined ? [] : [oneLine(layer.scheme, 40)])];
}

/** The bond dimensions, where the row's first words do not name them. */
function bondParts(layer: Layer): string[] {
  return layer.state === 'mpo' && layer.keep !== undefined ? [vscode.l10n.t('χ {0}', bondsOf(layer))] : [];
}

function bondsOf({ bondDims = [] }: Layer): string {
  return [...new Set(bondDims)].join('·');
}

export function shapeText(shape: readonly number[]): string {
  return shape.length === 0 ? vscode.l10n.t('scalar') : shape.join('×');
}

function lookOf(node: TreeNode, found?: ModelSensitivity): Look {
  if (node instanceof ModelNode) {
    return modelLook(node);
  }
  if (node instanceof ProblemNode) {
    return { label: oneLine(node.problem.message), description: '', icon: 'warning', color: 'list.warningForeground', contextValue: 'problem', expandable: false };
  }
  if (node instanceof BlockNode) {
    return blockLook(node, found);
  }
  if (node instanceof GroupNode) {
    const label = { attention: vscode.l10n.t('Attention'), mlp: vscode.l10n.t('MLP'), other: vscode.l10n.t('Other layers') }[node.group];
    const bytes = node.layers.reduce((sum, layer) => sum + layer.bytes, 0);
    return {
      label,
      description: [layerCount(node.layers), sizeText(bytes, node.parent.model)].join(' · '),
      icon: 'list-tree',
      contextValue: 'group',
      expandable: true,
    };
  }
  if (node instanceof LayerNode) {
    return layerLook(node, found);
  }
  if (node instanceof TensorsNode) {
    return {
      label: node.parent instanceof BlockNode ? vscode.l10n.t('Norms and others') : roleText(node.group.name),
      description: [vscode.l10n.t('{0} tensors', node.group.tensors.length), sizeText(node.group.bytes, node.model)].join(' · '),
      icon: 'symbol-array',
      contextValue: 'tensors',
      expandable: true,
    };
  }
  return tensorLook(node);
}

function modelLook({ entry: { folder, model, problem } }: ModelNode): Look {
  const label = oneLine(model?.name ?? path.basename(folder), 100);
  if (!model) {
    return { label, description: problem ? oneLine(reasonOf(problem, folder), 200) : '', icon: 'error', color: 'errorForeground', contextValue: 'error', expandable: false };
  }
  const [main] = model.dtypes;
  const state = stateOf(model);
  const { lineage } = model;
  const parts = [
    ...(lineage?.quantization ? [vscode.l10n.t('{0} bits a parameter', lineage.quantization.result.bits_per_parameter.toFixed(2))] : []),
    ...(lineage?.healing?.length ? [vscode.l10n.t('healed')] : []),
    ...(lineage?.result
      ? [vscode.l10n.t('{0} of {1}', formatShare(lineage.result.parameters / lineage.result.original_parameters), oneLine(lineage.base.name, 60))]
      : lineage
        ? [vscode.l10n.t('of {0}', oneLine(lineage.base.name, 60))]
        : []),
    formatParameters(model.parameters),
    formatBytes(model.bytes),
    ...(main ? [main.dtype] : []),
  ];
  return {
    label,
    description: parts.join(' · '),
    icon: 'package',
    ...(state === 'mpo' ? { color: 'bondwise.tensorized' } : state === 'quantized' ? { color: 'charts.blue' } : {}),
    contextValue: lineage ? 'model.mpo' : 'model',
    expandable: true,
    uri: modelUri(folder, state),
  };
}

function blockLook({ block, model }: BlockNode, found: ModelSensitivity | undefined): Look {
  const count = (state: Layer['state']) => block.layers.filter(layer => layer.state === state).length;
  const worst = found && worstOf(block.layers.map(layer => layer.name), found.layers);
  const parts = [
    ...(count('mpo') > 0 ? [vscode.l10n.t('{0} of {1} MPO', count('mpo'), block.layers.length)] : []),
    ...(count('quantized') > 0 ? [vscode.l10n.t('{0} quantized', count('quantized'))] : []),
    ...(worst ? [riseText(worst)] : count('mpo') > 0 ? [] : [layerCount(block.layers)]),
    sizeText(block.bytes, model),
  ];
  const mark: SensitivityMark | undefined = worst && { level: worst.level, text: vscode.l10n.t('Most sensitive layer: {0}', levelText(worst.level)) };
  return {
    label: vscode.l10n.t('Block {0}', block.index),
    description: parts.join(' · '),
    ...(mark ? { more: [mark.text] } : {}),
    icon: 'layers',
    ...(count('mpo') > 0 ? { color: 'bondwise.tensorized' } : count('quantized') > 0 ? { color: 'charts.blue' } : {}),
    contextValue: 'block',
    expandable: true,
    uri: blockUri(model.folder, block.name, mark),
  };
}

const LAYER_ICONS: Record<Layer['state'], readonly [icon: string, color?: string]> = {
  dense: ['table'],
  mpo: ['link', 'bondwise.tensorized'],
  quantized: ['symbol-numeric', 'charts.blue'],
};

function layerLook({ layer, block, model }: LayerNode, found: ModelSensitivity | undefined): Look {
  const [icon, color] = LAYER_ICONS[layer.state];
  const value = found?.layers.get(layer.name);
  const parts = [...stateParts(layer), ...(value ? [riseText(value)] : []), sizeText(layer.bytes, model), ...bondParts(layer), shapeText(layer.shape)];
  return {
    label: oneLine(layer.name.startsWith(`${block.name}.`) ? layer.name.slice(block.name.length + 1) : layer.name, 120),
    description: parts.join(' · '),
    more: [layer.dtype, ...(layer.state === 'dense' ? [stateText(layer)] : []), ...(value ? [levelText(value.level)] : [])],
    icon,
    ...(color ? { color } : {}),
    contextValue: layer.state !== 'dense' || canTensorize(layer) ? `layer.${layer.state}` : 'layer.dense.fused',
    expandable: false,
    uri: layerUri(model.folder, layer, value && found ? { level: value.level, text: sensitivityText(value, found.file) } : undefined),
  };
}

function tensorLook({ tensor, model, role }: TensorNode): Look {
  return {
    label: role === undefined || role === 'other' ? oneLine(tensor.name, 120) : roleText(role),
    description: tensorFacts(tensor, model),
    more: [tensor.dtype],
    icon: role === 'embedding' ? 'symbol-key' : role === 'head' ? 'output' : 'symbol-array',
    contextValue: 'tensor',
    expandable: false,
  };
}

function tensorFacts(tensor: Tensor, model: Model): string {
  return [shapeText(tensor.shape), sizeText(tensor.bytes, model)].join(' · ');
}

/** Size and share of the model. */
function sizeText(bytes: number, model: Model): string {
  return `${formatBytes(bytes)} · ${formatPercent(bytes / Math.max(1, model.bytes))}`;
}

function layerCount(layers: readonly Layer[]): string {
  return layers.length === 1 ? vscode.l10n.t('1 layer') : vscode.l10n.t('{0} layers', layers.length);
}

function roleText(role: OtherGroup['name']): string {
  return { embedding: vscode.l10n.t('Embedding'), norm: vscode.l10n.t('Norms'), head: vscode.l10n.t('Head'), other: vscode.l10n.t('Other tensors') }[role];
}

/** Of the model as a whole: what was only quantized is no tensor network. */
function stateOf({ blocks, lineage }: Model): Layer['state'] {
  const has = (state: Layer['state']) => blocks.some(block => block.layers.some(layer => layer.state === state));
  if (has('mpo') || lineage?.result) {
    return 'mpo';
  }
  return lineage?.quantization || has('quantized') ? 'quantized' : 'dense';
}

function modelTooltip({ entry: { folder, model } }: ModelNode): vscode.MarkdownString {
  if (!model) {
    return tooltip(folder, []);
  }
  const quantized = model.lineage?.quantization?.result;
  const healing = model.lineage?.healing?.at(-1)?.result;
  // What was measured together is on one text.
  const result = healing?.healed ? healing : model.lineage?.result && { ...model.lineage.result, healed: undefined };
  return tooltip(model.name, [
    [vscode.l10n.t('Folder'), shortPath(folder)],
    ...(model.architecture ? [[vscode.l10n.t('Architecture'), model.architecture] as const] : []),
    [vscode.l10n.t('Parameters'), formatCount(model.parameters)],
    [vscode.l10n.t('Size'), formatBytes(model.bytes)],
    [vscode.l10n.t('Types'), model.dtypes.map(({ dtype, bytes }) => `${dtype} ${formatPercent(bytes / Math.max(1, model.bytes))}`).join(', ')],
    [vscode.l10n.t('Blocks'), String(model.blocks.length)],
    ...(model.lineage ? [[vscode.l10n.t('Made from'), model.lineage.base.name] as const] : []),
    ...(quantized
      ? [
          [vscode.l10n.t('Precision'), vscode.l10n.t('{0} bits in what was quantized, {1} for a parameter of the original', quantized.layer_bits.toFixed(2), quantized.bits_per_parameter.toFixed(2))] as const,
          [vscode.l10n.t('In memory'), vscode.l10n.t('{0} when it was checked', formatBytes(quantized.memory))] as const,
        ]
      : []),
    ...healedLines(model),
    ...(quantized?.original && quantized.quantized
      ? [[vscode.l10n.t('Perplexity'), `${perplexity(quantized.original)} → ${perplexity(quantized.quantized)}`] as const]
      : []),
    ...(result?.original && result.compressed && !quantized
      ? [[vscode.l10n.t('Perplexity'), [result.original, result.compressed, ...(result.healed ? [result.healed] : [])].map(perplexity).join(' → ')] as const]
      : []),
    ...(model.needsCode ? [vscode.l10n.t('This model needs its own Python code; a run asks before it uses it.')] : []),
  ]);
}

/** Each healing in the history of the folder. */
function healedLines({ lineage }: Model): readonly (readonly [string, string])[] {
  return (lineage?.healing ?? []).map(({ result, created }) => [
    vscode.l10n.t('Healed'),
    vscode.l10n.t('{0}: {1} on the text held back, {2} steps', new Date(created).toLocaleDateString(vscode.env.language), healedPerplexity(result), result.steps),
  ]);
}

function layerLines(layer: Layer, model: Model, found: ModelSensitivity | undefined): readonly (readonly [string, string])[] {
  const value = found?.layers.get(layer.name);
  return [
    [vscode.l10n.t('State'), stateText(layer)],
    [vscode.l10n.t('Shape'), vscode.l10n.t('{0} (out × in){1}', shapeText(layer.shape), layer.transposed ? vscode.l10n.t(', stored transposed') : '')],
    [vscode.l10n.t('Type'), layer.dtype],
    [vscode.l10n.t('Parameters'), formatCount(layer.parameters)],
    [vscode.l10n.t('Size'), vscode.l10n.t('{0} of the model’s {1}', formatBytes(layer.bytes), formatBytes(model.bytes))],
    ...(value && found ? [[vscode.l10n.t('Sensitivity'), sensitivityText(value, found.file)] as const] : []),
  ];
}

function perplexity(evaluation: Evaluation): string {
  return formatMeasured(evaluation.perplexity, evaluation.standard_error);
}
