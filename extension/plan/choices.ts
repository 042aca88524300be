/**
 * What a choice of sites and bond dimension makes of a layer: modes, parameters, multiply-adds. The same arithmetic as
 * engine/bondwise/mpo.py; test/fixtures/choices.json holds a table that both are checked against.
 */
import { t } from '../l10n/text.ts';
import type { TensorizeRule } from '../protocol/types.ts';

/** Number of sites (2 … 5), or the two-site MPO with the sites (1, in) and (out, 1). */
export type Sites = number | 'low-rank';

/** How cores are found: from the weight alone, or weighted by what a calibration text says of the layer. */
export type Method = NonNullable<TensorizeRule['method']>;

/** How far to compress: one bond dimension for every bond, or the fraction of a layer's parameters to keep. */
export type Target = { readonly chi: number } | { readonly keep: number };

export interface Modes {
  readonly out: readonly number[];
  readonly in: readonly number[];
}

/** A dense weight [out, in] as it lies on disk. */
export interface DenseLayer {
  readonly out: number;
  readonly in: number;
  readonly bytes: number;
}

/** What a choice makes of some layers together. */
export interface Estimate {
  readonly parameters: number;
  readonly denseParameters: number;
  readonly bytes: number;
  readonly denseBytes: number;
  /** parameters / denseParameters */
  readonly keep: number;
  /** Per token, through the cores. */
  readonly multiplyAdds: number;
  readonly denseMultiplyAdds: number;
  /** Smallest and largest bond dimension over the layers. */
  readonly chi: readonly [number, number];
  /** Layers in which every bond has its exact rank: nothing is lost there, and little or nothing saved. */
  readonly lossless: number;
}

export const SITE_CHOICES: readonly Sites[] = ['low-rank', 2, 3, 4, 5];

/** The most balanced factors of `size`, ascending; of the next larger size where there are none that fit: see `balanced_modes` in mpo.py. */
export function balancedModes(size: number, sites: number): readonly number[] {
  if (size < 1 || sites < 1) {
    throw new RangeError(`size ${size} and sites ${sites} must be at least 1`);
  }
  if (size < 2 ** sites) {
    return [...Array.from({ length: sites - 1 }, () => 1), size];
  }
  const exact = bestFactors(size, sites, 2);
  if (exact) {
    return exact;
  }
  for (let padded = size + 1; ; padded++) {
    const found = bestFactors(padded, sites, 2);
    if (found && (found.at(-1) ?? 0) <= 2 * (found[0] ?? 0)) {
      return found;
    }
  }
}

export function layerModes(outFeatures: number, inFeatures: number, sites: Sites): Modes {
  if (sites === 'low-rank') {
    return { out: [1, outFeatures], in: [inFeatures, 1] };
  }
  return { out: balancedModes(outFeatures, sites), in: balancedModes(inFeatures, sites).toReversed() };
}

/** The exact rank of each interior bond. */
export function maxBondDims(modes: Modes): readonly number[] {
  const sizes = siteSizes(modes);
  return sizes.slice(1).map((_, k) => Math.min(product(sizes.slice(0, k + 1)), product(sizes.slice(k + 1))));
}

/** Numbers stored in the cores, the gauge of every bond fixed: Σ r_{k-1}·out_k·in_k·r_k − Σ r_k². Low rank: χ·(in + out − χ). */
export function parameterCount(modes: Modes, bondDims: readonly number[]): number {
  const bonds = [1, ...bondDims, 1];
  return sum(siteSizes(modes).map((size, k) => (bonds[k] ?? 1) * size * (bonds[k + 1] ?? 1))) - squares(bondDims);
}

/** Indices, 4 bytes each, that say which columns of the cores are stored. */
export function orderCount(modes: Modes, bondDims: readonly number[]): number {
  return sum(siteSizes(modes).map((size, k) => (k === 0 ? 0 : size * (bondDims[k] ?? 1))));
}

/** Multiply-adds per token through the cores, site 1 first. Low rank: χ·(in + out − χ). */
export function multiplyAdds(modes: Modes, bondDims: readonly number[]): number {
  const bonds = [1, ...bondDims, 1];
  const through = sum(
    siteSizes(modes).map((size, k) => product(modes.out.slice(0, k)) * product(modes.in.slice(k + 1)) * (bonds[k] ?? 1) * size * (bonds[k + 1] ?? 1)),
  );
  // Inputs at the first site only, outputs at the last: nothing is multiplied with the unit columns of a core.
  const plainChain = product(modes.in.slice(1)) === 1 && product(modes.out.slice(0, -1)) === 1;
  return through - (plainChain ? squares(bondDims) : 0);
}

/** `chi` at every bond, never above the bond's exact rank. @throws RangeError when χ is not a whole number of at least 1. */
export function bondDimsForChi(modes: Modes, chi: number): readonly number[] {
  if (!Number.isInteger(chi) || chi < 1) {
    throw new RangeError(`bond dimension ${chi} is not a whole number of at least 1`);
  }
  return maxBondDims(modes).map(rank => Math.min(chi, rank));
}

/** The largest χ whose cores hold at most `keep` of the dense parameters. @throws RangeError when even χ = 1 holds more. */
export function bondDimsForKeep(modes: Modes, keep: number, denseParameters: number): readonly number[] {
  if (!(keep > 0 && keep <= 1)) {
    throw new RangeError(`keep ${keep} is not a fraction above 0 and at most 1`);
  }
  const budget = Math.floor(keep * denseParameters + 1e-6);
  const fits = (chi: number) => parameterCount(modes, bondDimsForChi(modes, chi)) <= budget;
  if (!fits(1)) {
    throw new RangeError(`keep ${keep} allows ${budget} parameters, and bond dimension 1 takes ${parameterCount(modes, bondDimsForChi(modes, 1))}`);
  }
  let [low, high] = [1, Math.max(...maxBondDims(modes))];
  while (low < high) {
    const middle = Math.floor((low + high + 1) / 2);
    if (fits(middle)) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return bondDimsForChi(modes, low);
}

/** What a target makes of all the layers. @throws RangeError when one of them cannot meet it. */
export function estimate(layers: readonly DenseLayer[], sites: Sites, target: Target): Estimate {
  let [parameters, denseParameters, bytes, denseBytes, adds, lossless] = [0, 0, 0, 0, 0, 0];
  let [least, most] = [Infinity, 0];
  // A model has thousands of layers, but few shapes.
  const known = new Map<string, ReturnType<typeof estimateShape>>();
  for (const layer of layers) {
    const shape = `${layer.out}×${layer.in}`;
    const each = known.get(shape) ?? estimateShape(layer, sites, target);
    known.set(shape, each);
    const dense = layer.out * layer.in;
    parameters += each.parameters;
    denseParameters += dense;
    bytes += (layer.bytes / dense) * each.parameters + 4 * each.orders;
    denseBytes += layer.bytes;
    adds += each.multiplyAdds;
    lossless += each.lossless ? 1 : 0;
    least = Math.min(least, ...each.bonds);
    most = Math.max(most, ...each.bonds);
  }
  return {
    parameters,
    denseParameters,
    bytes: Math.round(bytes),
    denseBytes,
    keep: parameters / denseParameters,
    multiplyAdds: adds,
    denseMultiplyAdds: denseParameters,
    chi: [least, most],
    lossless,
  };
}

/** Shares worth offering: those that every layer can meet. */
export function keepChoices(layers: readonly DenseLayer[], sites: Sites): readonly { readonly target: Target; readonly estimate: Estimate }[] {
  return [0.9, 0.75, 0.5, 0.3, 0.2, 0.1].flatMap(keep => tryEstimate(layers, sites, { keep }));
}

/** Bond dimensions worth offering, largest first: powers of two that save parameters. */
export function chiChoices(layers: readonly DenseLayer[], sites: Sites): readonly { readonly target: Target; readonly estimate: Estimate }[] {
  const powers = Array.from({ length: 14 }, (_, i) => 2 ** (14 - i));
  const offered = powers.flatMap(chi => tryEstimate(layers, sites, { chi })).filter(({ estimate: { keep } }) => keep < 1);
  return offered.slice(0, 8);
}

/**
 * Reads what a user typed: `64` is a bond dimension, `30%` a share of the parameters.
 * @returns undefined for nothing typed; a problem in words, with what to type instead.
 */
export function parseTarget(text: string): Target | { readonly problem: string; readonly remedy: string } | undefined {
  const remedy = t('Type a bond dimension such as 64, or a share of the parameters such as 30%.');
  const typed = text.trim().replace(/^(χ|chi)\s*=?\s*/i, '');
  if (typed === '') {
    return undefined;
  }
  const share = /^(-?\d+(?:[.,]\d+)?)\s*%$/.exec(typed);
  if (share) {
    const percent = Number(share[1]?.replace(',', '.'));
    return percent > 0 && percent <= 100
      ? { keep: percent / 100 }
      : { problem: t('{0} is not a share of the parameters.', typed), remedy: t('Type a percentage above 0% and at most 100%, such as 30%.') };
  }
  const number = /^[+-]?(\d+\.?\d*|\.\d+)$/.test(typed) ? Number(typed) : NaN;
  if (Number.isNaN(number)) {
    return { problem: t('“{0}” is not a number.', typed), remedy };
  }
  if (!Number.isSafeInteger(number)) {
    return { problem: t('χ is a whole number, and {0} is not.', typed), remedy };
  }
  return number >= 1 ? { chi: number } : { problem: t('χ must be at least 1, and {0} is not.', typed), remedy };
}

function estimateShape(layer: DenseLayer, sites: Sites, target: Target) {
  const modes = layerModes(layer.out, layer.in, sites);
  const bonds = 'chi' in target ? bondDimsForChi(modes, target.chi) : bondDimsForKeep(modes, target.keep, layer.out * layer.in);
  return {
    bonds,
    parameters: parameterCount(modes, bonds),
    orders: orderCount(modes, bonds),
    multiplyAdds: multiplyAdds(modes, bonds),
    lossless: maxBondDims(modes).every((rank, k) => rank === bonds[k]),
  };
}

function tryEstimate(layers: readonly DenseLayer[], sites: Sites, target: Target): { target: Target; estimate: Estimate }[] {
  try {
    return [{ target, estimate: estimate(layers, sites, target) }];
  } catch (error) {
    if (error instanceof RangeError) {
      return [];
    }
    throw error;
  }
}

function bestFactors(size: number, sites: number, least: number): readonly number[] | undefined {
  if (sites === 1) {
    return size >= least ? [size] : undefined;
  }
  let best: readonly number[] | undefined;
  for (let factor = least; factor <= Math.floor(size ** (1 / sites) + 1e-9); factor++) {
    if (size % factor === 0) {
      const rest = bestFactors(size / factor, sites - 1, factor);
      if (rest && (!best || factor + sum(rest) < sum(best))) {
        best = [factor, ...rest];
      }
    }
  }
  return best;
}

function siteSizes(modes: Modes): readonly number[] {
  return modes.out.map((mode, k) => mode * (modes.in[k] ?? 1));
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

function squares(values: readonly number[]): number {
  return sum(values.map(value => value ** 2));
}

function product(values: readonly number[]): number {
  return values.reduce((total, value) => total * value, 1);
}
