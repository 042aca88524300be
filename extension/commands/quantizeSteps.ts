/** The list of “Quantize…”: what each scheme makes of the layers, in figures. */
import * as vscode from 'vscode';
import type { Layer, Model } from '../checkpoint/index.ts';
import { type FloatDtype, type FloatLayer, isFloatDtype, type Scheme, schemeSize } from '../plan/schemes.ts';
import { formatBytes, formatPercent } from '../runs/format.ts';

/** One scheme for all layers, or for each the one that loses least under a budget. */
export type Way = { readonly scheme: Scheme } | { readonly budget: string };

export interface SchemeItem extends vscode.QuickPickItem {
  /** Absent on separators and on what cannot be chosen. */
  readonly way?: Way;
}

/** Layers with weights to quantize: dense matrices, or MPOs, of which the cores are meant. */
export function canQuantize(layer: Layer): boolean {
  const floats = isFloatDtype(layer.dtype) && layer.shape.length === 2;
  return floats && layer.scheme === undefined && (layer.state === 'dense' || layer.state === 'mpo');
}

/** The weights of the layers, as the arithmetic wants them: of a low-rank MPO its two cores. */
export function floatLayers(layers: readonly Layer[]): readonly FloatLayer[] {
  return layers.flatMap(({ shape: [out = 0, inputs = 0], dtype, state, bondDims = [], keep = 1 }) => {
    const as: FloatDtype = isFloatDtype(dtype) ? dtype : 'BF16';
    const [chi] = bondDims;
    if (state !== 'mpo' || chi === undefined) {
      return [{ out, in: inputs, dtype: as }];
    }
    return bondDims.length === 1 && Math.abs(keep * out * inputs - chi * (out + inputs - chi)) < 1
      ? [{ out: chi, in: inputs, dtype: as }, { out: out - chi, in: chi, dtype: as }]
      : [{ out: Math.max(1, Math.round(keep * out)), in: inputs, dtype: as }];
  });
}

/** Schemes and budgets to choose from; what is typed comes alone, with its figures or with what is wrong about it. */
export function schemeItems(model: Model, layers: readonly Layer[], typed: string): readonly SchemeItem[] {
  const weights = floatLayers(layers);
  const text = typed.trim().toLowerCase().replaceAll(' ', '').replace(',', '.');
  if (text !== '') {
    const budget = budgetItem(model, weights, text);
    return [budget ? { ...budget, alwaysShow: true } : problemItem(typed.trim())];
  }
  const { Separator } = vscode.QuickPickItemKind;
  const dense = layers.every(({ state }) => state === 'dense');
  return [
    { label: vscode.l10n.t('seconds'), kind: Separator },
    schemeItem(model, weights, 'int8', vscode.l10n.t('8 bits'), vscode.l10n.t('bitsandbytes int8: hardly any loss.')),
    schemeItem(model, weights, 'nf4', vscode.l10n.t('4 bits, nf4'), vscode.l10n.t('bitsandbytes NormalFloat.')),
    schemeItem(model, weights, 'nf4-double', vscode.l10n.t('4 bits, nf4, scales too'), vscode.l10n.t('bitsandbytes NormalFloat, double quantization.')),
    { label: vscode.l10n.t('learns from a text'), kind: Separator },
    ...([4, 3, 2] as const).map(bits =>
      schemeItem(model, weights, `compensated-${bits}`, vscode.l10n.t('{0} bits, compensated', bits), vscode.l10n.t('GPTQ, minutes; unpacked by the folder’s own code.')),
    ),
    ...(dense && layers.length > 1
      ? [
          { label: vscode.l10n.t('each as it bears it'), kind: Separator },
          ...['4.25bits', '3.5bits', '3bits', '2.5bits'].flatMap(target => budgetItem(model, weights, target) ?? []),
        ]
      : []),
  ];
}

/** `SmolLM2-nf4`, `SmolLM2-3-5bits`: what became of it. */
export function quantizedName(model: Model, way: Way): string {
  return `${model.name}-${'scheme' in way ? way.scheme : way.budget}`.replace(/[^\p{L}\p{N}_-]+/gu, '-');
}

/** Whether the way learns from a text. */
export function needsText(way: Way): boolean {
  return 'budget' in way || /^(compensated|low-rank)/.test(way.scheme);
}

function schemeItem(model: Model, weights: readonly FloatLayer[], scheme: Scheme, label: string, what: string): SchemeItem {
  const { bytes, denseBytes, bits, backend } = schemeSize(weights, scheme);
  const unfit = backend === 'packed' && scheme.startsWith('nf4') ? ` ${vscode.l10n.t('Some sizes do not suit bitsandbytes: unpacked by the folder’s own code.')}` : '';
  return { label, description: sizeText(model, bytes, denseBytes, bits), detail: what + unfit, way: { scheme } };
}

function budgetItem(model: Model, weights: readonly FloatLayer[], target: string): SchemeItem | undefined {
  const numbers = weights.reduce((sum, layer) => sum + layer.out * layer.in, 0);
  const { denseBytes } = schemeSize(weights, 'float16');
  const [, amount, unit] = /^(\d+(?:\.\d+)?)(bits?|[kmg]b)$/.exec(target) ?? [];
  if (amount === undefined || unit === undefined || Number(amount) <= 0) {
    return undefined;
  }
  const bytes = unit.startsWith('bit') ? (Number(amount) * numbers) / 8 : Number(amount) * { kb: 1e3, mb: 1e6, gb: 1e9 }[unit as 'kb' | 'mb' | 'gb'] - (model.bytes - denseBytes);
  if (bytes <= 0 || bytes >= denseBytes) {
    return undefined;
  }
  return {
    label: vscode.l10n.t('{0} on average', vscode.l10n.t('{0} bits', Number(((8 * bytes) / numbers).toFixed(2)))),
    description: sizeText(model, bytes, denseBytes, (8 * bytes) / numbers),
    detail: vscode.l10n.t('Bits, rank or both, by predicted loss. Seconds a layer, once.'),
    way: { budget: target },
  };
}

function problemItem(typed: string): SchemeItem {
  return {
    label: `$(error) ${vscode.l10n.t('“{0}” is not a size that these layers can have.', typed.replaceAll('$(', '('))}`,
    detail: vscode.l10n.t('Type bits for a number of the layers, such as 3.5 bits, or the size of the new folder, such as 120 MB.'),
    alwaysShow: true,
  };
}

/** Size of the new folder first: that is what one chooses by. */
function sizeText(model: Model, bytes: number, denseBytes: number, bits: number): string {
  const made = model.bytes - denseBytes + bytes;
  return [
    `${formatBytes(model.bytes)} → ${formatBytes(made)} (${formatPercent(made / model.bytes)})`,
    vscode.l10n.t('{0} bits in these layers', bits.toFixed(2)),
  ].join(' · ');
}
