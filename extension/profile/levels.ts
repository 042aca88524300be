/** How sensitive a layer is, in one figure: what the tree shows of a profile. */
import type { Cell, Curve, Sensitivity } from '../protocol/types.ts';
import { methodOf } from './method.ts';
import { riseOf } from './rise.ts';

/** Part of a layer's parameters at which layers are compared. */
export const REFERENCE_KEEP = 0.3;
/** A size counts as the reference up to this factor. */
const NEAR = 1.5;

export const LEVELS = ['low', 'moderate', 'high', 'severe'] as const;
export type Level = (typeof LEVELS)[number];
/** What the perplexity is multiplied by at the border to the next level. */
const BORDERS: readonly number[] = [1.02, 1.1, 1.5];
/** Nats per token below which nothing is lost. */
const LEAST = 0.0005;

export interface LayerSensitivity {
  /** Of the mean loss, nats per token. */
  readonly rise: number;
  /** Standard error of that; only of measured ones. */
  readonly error?: number;
  readonly chi: number;
  readonly keep: number;
  readonly source: 'measured' | 'predicted';
  readonly level: Level;
}

/** Of each layer that has a figure near the reference size: the measured one, else the predicted one. */
export function layerSensitivities(profile: Sensitivity): ReadonlyMap<string, LayerSensitivity> {
  const { baseline = {} } = profile;
  const method = methodOf(profile);
  const curves = new Map(profile.curves?.map(curve => [curve.layer, curve]));
  const cells = new Map<string, Cell[]>();
  for (const cell of profile.cells ?? []) {
    const own = cells.get(cell.layer);
    if (own) {
      own.push(cell);
    } else {
      cells.set(cell.layer, [cell]);
    }
  }
  const found = new Map<string, LayerSensitivity>();
  for (const { name, parameters } of profile.layers) {
    const curve = curves.get(name);
    const value = measured(cells.get(name) ?? [], baseline) ?? (curve && predicted(curve.chi, curve.parameters, curve[method], parameters));
    if (value) {
      found.set(name, { ...value, level: levelOf(known(value)) });
    }
  }
  return found;
}

/** The most sensitive of some layers; undefined where none has a figure. */
export function worstOf(names: Iterable<string>, found: ReadonlyMap<string, LayerSensitivity>): LayerSensitivity | undefined {
  let worst: LayerSensitivity | undefined;
  for (const name of names) {
    const value = found.get(name);
    if (value && (!worst || known(value) > known(worst))) {
      worst = value;
    }
  }
  return worst;
}

/** What is known to be lost: within the noise nothing is. */
function known({ rise, error = 0 }: Pick<LayerSensitivity, 'rise' | 'error'>): number {
  return isLoss(rise, error) ? rise : 0;
}

/** Whether a change of the loss is more than noise, and than nothing. */
export function isLoss(rise: number, error: number): boolean {
  return Math.abs(rise) > 2 * error && Math.abs(rise) >= LEAST;
}

export function levelOf(rise: number): Level {
  return LEVELS[BORDERS.filter(border => rise >= Math.log(border)).length] ?? 'severe';
}

type Value = Omit<LayerSensitivity, 'level'>;

function measured(cells: readonly Cell[], baseline: Readonly<Record<string, number>>): Value | undefined {
  const known = cells.flatMap(cell => {
    const rise = riseOf(cell, baseline);
    return rise === undefined ? [] : [{ ...rise, chi: cell.chi, keep: cell.keep, source: 'measured' as const }];
  });
  return nearest(known);
}

function predicted(chi: Curve['chi'], parameters: readonly number[], losses: readonly number[], dense: number): Value | undefined {
  return nearest(chi.map((bond, i) => ({ rise: losses[i] ?? 0, chi: bond, keep: (parameters[i] ?? 0) / dense, source: 'predicted' as const })));
}

function nearest(values: readonly Value[]): Value | undefined {
  const far = ({ keep }: Value) => Math.abs(Math.log(keep / REFERENCE_KEEP));
  const [best] = values.filter(value => far(value) <= Math.log(NEAR) + 1e-9).sort((a, b) => far(a) - far(b));
  return best;
}
