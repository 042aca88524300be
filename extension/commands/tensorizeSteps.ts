/** The lists of “Tensorize…”: what each choice makes of the layers, in figures. */
import path from 'node:path';
import { access, stat } from 'node:fs/promises';
import * as vscode from 'vscode';
import type { Layer, Model } from '../checkpoint/index.ts';
import {
  bondDimsForChi,
  chiChoices,
  type DenseLayer,
  type Estimate,
  estimate,
  keepChoices,
  layerModes,
  maxBondDims,
  type Method,
  multiplyAdds,
  parseTarget,
  SITE_CHOICES,
  type Sites,
  type Target,
} from '../plan/choices.ts';
import { LINEAGE_FILE } from '../panels/compareData.ts';
import { formatBytes, formatParameters, formatPercent } from '../runs/format.ts';
import { oneLine } from '../views/text.ts';

/** Into how many sites, and how the cores are found. */
export interface Way {
  readonly sites: Sites;
  readonly method: Method;
}

export interface SitesItem extends vscode.QuickPickItem {
  /** Absent on separators. */
  readonly way?: Way;
}

export interface TargetItem extends vscode.QuickPickItem {
  /** Absent on separators and on what cannot be chosen. */
  readonly target?: Target;
}

/** The sizes of the dense weights, as the arithmetic wants them. A bias stays as it is. */
export function denseLayers(layers: readonly Layer[]): readonly DenseLayer[] {
  return layers.map(({ shape: [out = 0, inFeatures = 0], bytes, parameters }) => ({
    out,
    in: inFeatures,
    bytes: (bytes * out * inFeatures) / parameters,
  }));
}

/** How the layers can be cut into sites, with the modes of the first of them, and how their cores are found. */
export function siteItems(layers: readonly DenseLayer[]): readonly SitesItem[] {
  const [first] = layers;
  if (!first) {
    return [];
  }
  const several = new Set(layers.map(layer => `${layer.out}×${layer.in}`)).size > 1;
  const cut = (sites: Sites): string => {
    const modes = layerModes(first.out, first.in, sites);
    const shown = modes.out.map((mode, site) => `${mode}×${modes.in[site] ?? '?'}`).join(' · ');
    return several ? vscode.l10n.t('{0} for {1}×{2}', shown, first.out, first.in) : shown;
  };
  const { Separator } = vscode.QuickPickItemKind;
  return [
    { label: vscode.l10n.t('two thin matrices'), kind: Separator },
    // A layer alone is handed what it always was: in sequence would be the data-aware method, and longer.
    ...lowRankItems().filter(({ way }) => layers.length > 1 || way?.method !== 'sequential').map(item => ({ ...item, description: cut('low-rank') })),
    { label: vscode.l10n.t('more cores'), kind: Separator },
    ...SITE_CHOICES.filter(sites => sites !== 'low-rank').flatMap(sites => {
      const limit = Math.min(...layers.map(layer => fastestChi(layer, sites)));
      const speed = limit < 1 ? vscode.l10n.t('slower than dense at every χ') : vscode.l10n.t('slower than dense above χ {0}', limit);
      const description = `${speed} · ${cut(sites)}`;
      return [
        { label: vscode.l10n.t('{0} sites, data-aware', sites), description, way: { sites, method: 'fisher' } as const },
        { label: vscode.l10n.t('{0} sites', sites), description, way: { sites, method: 'plain' } as const },
      ];
    }),
  ];
}

function lowRankItems(): readonly SitesItem[] {
  const sites = 'low-rank';
  return [
    {
      label: vscode.l10n.t('Low rank, data-aware'),
      detail: vscode.l10n.t('Fits what each layer does on a text: far better, minutes longer.'),
      way: { sites, method: 'fisher' },
    },
    {
      label: vscode.l10n.t('Low rank, in sequence'),
      detail: vscode.l10n.t('Each layer fitted to the compressed ones before it: best for many, several times longer.'),
      way: { sites, method: 'sequential' },
    },
    {
      label: vscode.l10n.t('Low rank'),
      detail: vscode.l10n.t('Plain, from the weight alone: needs no text, takes seconds.'),
      way: { sites, method: 'plain' },
    },
  ];
}

/** Shares and bond dimensions to choose from; what is typed comes alone, with its figures or with what is wrong about it. */
export function targetItems(layers: readonly DenseLayer[], sites: Sites, typed: string): readonly TargetItem[] {
  const own = parseTarget(typed);
  if (own) {
    return [typedItem(layers, sites, typed.trim(), own)];
  }
  const { Separator } = vscode.QuickPickItemKind;
  return [
    { label: vscode.l10n.t('share of the parameters'), kind: Separator },
    ...keepChoices(layers, sites).map(choice => targetItem(choice.target, choice.estimate)),
    { label: vscode.l10n.t('bond dimension'), kind: Separator },
    ...chiChoices(layers, sites).map(choice => targetItem(choice.target, choice.estimate)),
  ];
}

/** Why a name for the new folder will not do, or what will happen to what is there. */
export async function checkOutput(parent: string, name: string, model: Pick<Model, 'folder'>): Promise<vscode.InputBoxValidationMessage | undefined> {
  const { Error, Warning } = vscode.InputBoxValidationSeverity;
  if (name === '') {
    return { message: vscode.l10n.t('Type a name for the new folder.'), severity: Error };
  }
  if (/[\\/:*?"<>|\p{Cc}]/u.test(name) || name === '.' || name === '..' || name.startsWith('.')) {
    return { message: vscode.l10n.t('“{0}” is not a folder name: leave out / \\ : * ? " < > | and a dot at the start.', oneLine(name)), severity: Error };
  }
  const folder = path.join(parent, name);
  if (folder === model.folder) {
    return { message: vscode.l10n.t('“{0}” is the original. Type another name.', name), severity: Error };
  }
  const there = await stat(folder).catch(() => undefined);
  if (!there) {
    return undefined;
  }
  const ours = await access(path.join(folder, LINEAGE_FILE)).then(
    () => true,
    () => false,
  );
  return ours
    ? { message: vscode.l10n.t('“{0}” was made by Bondwise and will be replaced.', name), severity: Warning }
    : { message: vscode.l10n.t('“{0}” exists and was not made by Bondwise. Type another name.', name), severity: Error };
}

/**
 * The switch for measuring, in words and as a button, where a folder is named.
 * @param more said of the run before that.
 */
export function measureLook(parent: string, measure: boolean, more?: string): { readonly button: vscode.QuickInputButton; readonly prompt: string } {
  const where = [vscode.l10n.t('Name of the new model’s folder in {0}.', parent), ...(more === undefined ? [] : [more])].join(' ');
  return measure
    ? {
        button: { iconPath: new vscode.ThemeIcon('graph'), tooltip: vscode.l10n.t('Do not measure') },
        prompt: vscode.l10n.t('{0} Perplexity, speed and sample text of the models will be measured (the button turns that off).', where),
      }
    : {
        button: { iconPath: new vscode.ThemeIcon('circle-slash'), tooltip: vscode.l10n.t('Measure the models') },
        prompt: vscode.l10n.t('{0} Nothing will be measured (the button turns that on).', where),
      };
}

/** `SmolLM2-q_proj-30pct`, `SmolLM2-block3-2sites-chi64`: what is compressed, and how far. */
export function outputName(model: Model, layers: readonly Layer[], sites: Sites, target: Target): string {
  const { kind, block } = commonTo(model, layers);
  const what = [...(block === undefined ? [] : [kind === undefined ? `block${block}` : String(block)]), ...(kind === undefined ? [] : [kind])];
  const far = 'chi' in target ? `chi${target.chi}` : `${Number((target.keep * 100).toPrecision(3))}pct`;
  const parts = [model.name, ...(what.length > 0 ? what : [`${layers.length}layers`]), ...(sites === 'low-rank' ? [] : [`${sites}sites`]), far];
  // Python takes a dot in a model's folder for the border of a module.
  return parts.join('-').replace(/[^\p{L}\p{N}_-]+/gu, '-');
}

/** In few words, for a row: the one layer (`3.gate_proj`), the one kind of layer, the one block, or how many. */
export function describeLayers(model: Model, layers: readonly Layer[]): string {
  const { kind, block } = commonTo(model, layers);
  if (kind !== undefined) {
    return block === undefined ? `${layers.length}×${kind}` : `${block}.${kind}`;
  }
  return block === undefined ? vscode.l10n.t('{0} layers', layers.length) : vscode.l10n.t('block {0}', block);
}

/** The last part of the layers' names, and the block, where they share it. */
function commonTo(model: Model, layers: readonly Layer[]): { readonly kind?: string; readonly block?: number } {
  const wanted = new Set(layers);
  const blocks = model.blocks.filter(block => block.layers.some(layer => wanted.has(layer)));
  const kinds = new Set(layers.map(layer => layer.name.split('.').at(-1) ?? layer.name));
  const [[kind], [block]] = [[...kinds], blocks];
  return {
    ...(kinds.size === 1 && kind !== undefined ? { kind } : {}),
    ...(blocks.length === 1 && block ? { block: block.index } : {}),
  };
}

/** The largest χ at which the cores need no more multiply-adds than the dense weight; 0 where none does. */
function fastestChi(layer: DenseLayer, sites: Sites): number {
  const modes = layerModes(layer.out, layer.in, sites);
  let [low, high] = [0, Math.max(...maxBondDims(modes))];
  while (low < high) {
    const middle = Math.floor((low + high + 1) / 2);
    if (multiplyAdds(modes, bondDimsForChi(modes, middle)) <= layer.out * layer.in) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

function typedItem(layers: readonly DenseLayer[], sites: Sites, typed: string, own: NonNullable<ReturnType<typeof parseTarget>>): TargetItem {
  if ('problem' in own) {
    return { label: `$(error) ${own.problem.replaceAll('$(', '(')}`, detail: own.remedy, alwaysShow: true };
  }
  try {
    return { ...targetItem(own, estimate(layers, sites, own)), alwaysShow: true };
  } catch (error) {
    if (!(error instanceof RangeError)) {
      throw error;
    }
    const least = estimate(layers, sites, { chi: 1 });
    const label = vscode.l10n.t('{0} is too little: χ 1 already keeps {1}.', typed, formatPercent(least.keep));
    return { label: `$(error) ${label}`, detail: vscode.l10n.t('Type a larger share, or choose more sites.'), alwaysShow: true };
  }
}

function targetItem(target: Target, made: Estimate): TargetItem {
  const [least, most] = made.chi;
  const chi = least === most ? `χ ${most}` : `χ ${least}–${most}`;
  const kept = vscode.l10n.t('{0} kept', formatPercent(made.keep));
  const size = [vscode.l10n.t('{0} parameters', formatParameters(made.parameters)), formatBytes(made.bytes)];
  return {
    label: 'chi' in target ? `χ ${target.chi}` : `${Number((target.keep * 100).toPrecision(3))}%`,
    description: ('chi' in target ? [kept, ...size] : [chi, ...size, ...(Math.abs(made.keep - target.keep) > 0.005 ? [kept] : [])]).join(' · '),
    detail: [speedText(made), ...remarks(made)].join(' · '),
    target,
  };
}

function speedText(made: Estimate): string {
  const ratio = made.multiplyAdds / made.denseMultiplyAdds;
  const adds = vscode.l10n.t('{0} multiply-adds per token', formatParameters(made.multiplyAdds));
  if (ratio > 1) {
    const times = ratio < 10 ? ratio.toFixed(1) : String(Math.round(ratio));
    return vscode.l10n.t('$(warning) {0}, {1}× dense: slower than dense', adds, times);
  }
  return vscode.l10n.t('{0}, {1} of dense', adds, formatPercent(ratio));
}

function remarks(made: Estimate): readonly string[] {
  return [
    ...(made.keep > 1 ? [vscode.l10n.t('$(warning) larger than dense')] : []),
    ...(made.lossless > 0 ? [vscode.l10n.t('lossless')] : []),
  ];
}
