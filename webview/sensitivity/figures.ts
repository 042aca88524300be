/** A profile made ready to be asked for the value of any layer at any size, thousands of times a frame. */
import { bondDimsForChi, bondDimsForKeep } from '../../extension/plan/choices.ts';
import { methodOf } from '../../extension/profile/method.ts';
import { riseOf } from '../../extension/profile/rise.ts';
import type { Cell, Curve, ProfileLayer, Sensitivity } from '../../extension/protocol/types.ts';
import { spearman } from './correlation.ts';
import { baselineOf, type CurveKey, figureOf, type Metric, metricsOf, predictedAt, scaleOf } from './metrics.ts';
import type { Scale } from '../ui/scale.ts';

/** What the slider is over: the fraction of a layer's parameters that is kept, or the bond dimension. */
export type Axis = 'keep' | 'chi';

export interface Value {
  readonly value: number;
  /** Standard error of the difference to the baseline; measured ones only. */
  readonly error?: number;
  readonly rise: number;
  /** Within two standard errors of the baseline: it cannot be told from the original. */
  readonly noise: boolean;
  readonly chi: number;
  readonly keep: number;
  readonly parameters: number;
  readonly bytes: number;
  readonly bondDims: readonly number[];
  /** The cell it comes from, where it was measured. */
  readonly cell?: Cell;
}

export interface Correlation {
  /** Undefined with too few cells to tell. */
  readonly value: number | undefined;
  readonly cells: number;
}

interface Entry {
  readonly layer: ProfileLayer;
  readonly modes: { readonly out: readonly number[]; readonly in: readonly number[] };
  /** Equal for layers of one shape: they have the same bond dimensions at each size. */
  readonly shape: string;
  curve?: Curve;
  /** Ascending in χ. */
  cells: Cell[];
}

export class Figures {
  readonly profile: Sensitivity;
  readonly #entries: ReadonlyMap<string, Entry>;
  /** By size, then shape. */
  readonly #chis: Readonly<Record<Axis, Map<number, Map<string, number>>>> = { keep: new Map(), chi: new Map() };
  readonly #scales = new Map<string, Scale>();
  readonly #sizes = new Map<string, readonly number[]>();
  #metrics: readonly Metric[] | undefined;
  #correlation: Correlation | undefined;

  constructor(profile: Sensitivity) {
    this.profile = profile;
    const entries = new Map<string, Entry>(
      profile.layers.map(layer => [
        layer.name,
        { layer, modes: { out: layer.out_modes, in: layer.in_modes }, shape: `${layer.out_modes.join()}×${layer.in_modes.join()}×${layer.parameters}`, cells: [] },
      ]),
    );
    for (const curve of profile.curves ?? []) {
      const entry = entries.get(curve.layer);
      if (entry) {
        entry.curve = curve;
      }
    }
    for (const cell of profile.cells ?? []) {
      entries.get(cell.layer)?.cells.push(cell);
    }
    for (const { cells } of entries.values()) {
      cells.sort((a, b) => a.chi - b.chi);
    }
    this.#entries = entries;
  }

  /** Those that there are figures of. */
  get metrics(): readonly Metric[] {
    this.#metrics ??= metricsOf(this.profile);
    return this.#metrics;
  }

  /** The sizes that there are figures at, ascending. */
  sizes(metric: Metric, axis: Axis): readonly number[] {
    const key = `${metric.id} ${axis}`;
    let sizes = this.#sizes.get(key);
    if (!sizes) {
      sizes = this.#findSizes(metric, axis);
      this.#sizes.set(key, sizes);
    }
    return sizes;
  }

  #findSizes(metric: Metric, axis: Axis): readonly number[] {
    const asked = this.profile.sizes_are === axis ? this.profile.sizes : [];
    const found = new Set(asked);
    if (metric.curve) {
      for (const size of axis === 'chi' ? this.#curveChis() : this.#curveShares()) {
        found.add(size);
      }
    } else {
      const byShape = new Map<string, ReadonlySet<number | undefined>>();
      for (const entry of this.#entries.values()) {
        const reached = byShape.get(entry.shape) ?? new Set(asked.map(size => this.#chiAt(entry, axis, size)));
        byShape.set(entry.shape, reached);
        for (const cell of entry.cells) {
          if (!reached.has(cell.chi) && figureOf(metric, cell.figures)) {
            found.add(axis === 'chi' ? cell.chi : this.#shareOf(entry, cell));
          }
        }
      }
    }
    return [...found].sort((a, b) => a - b);
  }

  /** Undefined where it is not measured, or not predicted, or the layer cannot be that small. */
  value(name: string, metric: Metric, axis: Axis, size: number): Value | undefined {
    const entry = this.#entries.get(name);
    if (!entry) {
      return undefined;
    }
    return metric.curve ? this.#predicted(entry, metric, axis, size) : this.#measured(entry, metric, axis, size);
  }

  /** Every size of one layer that has a figure, ascending in χ. */
  series(name: string, metric: Metric): readonly Value[] {
    const entry = this.#entries.get(name);
    const { curve, cells = [] } = entry ?? {};
    if (!entry) {
      return [];
    }
    return metric.curve ? (curve?.chi ?? []).flatMap((_, i) => this.#point(entry, metric, i) ?? []) : cells.flatMap(cell => this.#ofCell(entry, metric, cell) ?? []);
  }

  get method(): CurveKey {
    return methodOf(this.profile);
  }

  /** Rise of the loss at a bond dimension: what the curve of the measured method predicts. */
  predictedLoss(name: string, chi: number): number | undefined {
    return this.predictedAt(name, this.method, chi);
  }

  predictedAt(name: string, key: CurveKey, chi: number): number | undefined {
    const curve = this.#entries.get(name)?.curve;
    return curve && predictedAt(curve, key, chi);
  }

  /** Rise of the loss of a measured cell, and its standard error. */
  measuredLoss(cell: Cell): { readonly rise: number; readonly error: number } | undefined {
    const { loss, perplexity } = this.profile.baseline ?? {};
    const before = loss ?? (perplexity === undefined ? undefined : Math.log(perplexity));
    const figure = cell.figures.loss;
    const ppl = cell.figures.perplexity;
    if (before === undefined) {
      return undefined;
    }
    if (figure) {
      return { rise: figure.value - before, error: figure.error };
    }
    return ppl && { rise: Math.log(ppl.value) - before, error: ppl.error / ppl.value };
  }

  layer(name: string): ProfileLayer | undefined {
    return this.#entries.get(name)?.layer;
  }

  cellsOf(name: string): readonly Cell[] {
    return this.#entries.get(name)?.cells ?? [];
  }

  curveOf(name: string): Curve | undefined {
    return this.#entries.get(name)?.curve;
  }

  baseline(metric: Metric): number | undefined {
    return baselineOf(metric, this.profile);
  }

  /** One scale for all sizes, so that colours compare while the slider moves. */
  scale(metric: Metric): Scale {
    let scale = this.#scales.get(metric.id);
    if (!scale) {
      scale = scaleOf(metric, this.#rises(metric));
      this.#scales.set(metric.id, scale);
    }
    return scale;
  }

  /** Spearman's, of predicted and measured rise of the loss over all measured cells, by KL where that is surer; the profile's own once it is complete. */
  get correlation(): Correlation {
    this.#correlation ??= this.#correlate();
    return this.#correlation;
  }

  #correlate(): Correlation {
    const predicted: number[] = [];
    const measured: number[] = [];
    for (const cell of this.profile.cells ?? []) {
      const [x, y] = [this.predictedLoss(cell.layer, cell.chi), riseOf(cell, this.profile.baseline ?? {})];
      if (x !== undefined && y) {
        predicted.push(x);
        measured.push(y.rise);
      }
    }
    const own = this.profile.complete === true ? this.profile.correlation : undefined;
    return { value: own ?? spearman(predicted, measured), cells: predicted.length };
  }

  #predicted(entry: Entry, metric: Metric, axis: Axis, size: number): Value | undefined {
    const { curve, layer } = entry;
    if (!curve) {
      return undefined;
    }
    const list = axis === 'chi' ? curve.chi : curve.parameters;
    const most = axis === 'chi' ? size : Math.floor(size * layer.parameters + 1e-6);
    return this.#point(entry, metric, lastUpTo(list, most));
  }

  #point(entry: Entry, metric: Metric, index: number): Value | undefined {
    const { curve, layer, modes } = entry;
    const [chi, parameters] = [curve?.chi[index], curve?.parameters[index]];
    const value = metric.curve && curve?.[metric.curve][index];
    if (chi === undefined || parameters === undefined || value === undefined) {
      return undefined;
    }
    const bondDims = bondDimsForChi(modes, chi);
    return { value, rise: metric.rise(value, 0), noise: false, chi, bondDims, ...sizeOf(layer, parameters) };
  }

  #measured(entry: Entry, metric: Metric, axis: Axis, size: number): Value | undefined {
    // At the sizes that were asked for a cell is found by its χ; by the other axis, the largest that is not above.
    const chi = this.#chiAt(entry, axis, size);
    const exact = entry.cells.find(cell => cell.chi === chi);
    const cell = exact ?? (this.profile.sizes_are === axis ? undefined : entry.cells.findLast(cell => cell.chi <= (chi ?? 0)));
    return cell && this.#ofCell(entry, metric, cell);
  }

  #ofCell({ layer }: Entry, metric: Metric, cell: Cell): Value | undefined {
    const figure = figureOf(metric, cell.figures);
    const baseline = this.baseline(metric);
    if (!figure || baseline === undefined) {
      return undefined;
    }
    const { value, error } = figure;
    const noise = Math.abs(value - baseline) <= 2 * error;
    return { value, error, rise: metric.rise(value, baseline), noise, chi: cell.chi, bondDims: cell.bond_dims, cell, ...sizeOf(layer, cell.parameters) };
  }

  *#rises(metric: Metric): Generator<number> {
    if (metric.curve) {
      for (const { curve } of this.#entries.values()) {
        yield* curve?.[metric.curve] ?? [];
      }
      return;
    }
    const baseline = this.baseline(metric);
    for (const { figures } of baseline === undefined ? [] : (this.profile.cells ?? [])) {
      const figure = figureOf(metric, figures);
      if (figure && baseline !== undefined) {
        // What cannot be told from the baseline need not be told from its like: the scale starts at the noise.
        yield Math.max(metric.rise(figure.value, baseline), metric.rise(2 * figure.error + baseline, baseline));
      }
    }
  }

  #curveChis(): Iterable<number> {
    return new Set([...this.#entries.values()].flatMap(({ curve }) => curve?.chi ?? []));
  }

  /** Steps of 5% that at least one layer can reach. */
  #curveShares(): readonly number[] {
    const least = [...this.#entries.values()].map(({ curve, layer }) => (curve?.parameters[0] ?? Infinity) / layer.parameters);
    const from = Math.min(...least);
    return Array.from({ length: 19 }, (_, i) => (i + 1) / 20).filter(share => share >= from);
  }

  /** The largest bond dimension of a layer at a size; undefined where it cannot be that small. */
  #chiAt({ layer, modes, shape }: Entry, axis: Axis, size: number): number | undefined {
    const atSize = this.#chis[axis].get(size) ?? new Map<string, number>();
    let chi = atSize.get(shape);
    if (chi === undefined) {
      try {
        chi = Math.max(...(axis === 'chi' ? bondDimsForChi(modes, size) : bondDimsForKeep(modes, Math.min(1, size), layer.parameters)));
      } catch (error) {
        if (!(error instanceof RangeError)) {
          throw error;
        }
        chi = 0;
      }
      this.#chis[axis].set(size, atSize.set(shape, chi));
    }
    return chi === 0 ? undefined : chi;
  }

  /** The roundest share at which a layer has a cell's bond dimension: what was probably asked for. */
  #shareOf(entry: Entry, { chi, keep }: Cell): number {
    for (const digits of [100, 1000]) {
      const share = Math.ceil(keep * digits - 1e-9) / digits;
      if (share <= 1 && this.#chiAt(entry, 'keep', share) === chi) {
        return share;
      }
    }
    return keep;
  }
}

function sizeOf(layer: ProfileLayer, parameters: number): Pick<Value, 'keep' | 'parameters' | 'bytes'> {
  const keep = parameters / layer.parameters;
  return { keep, parameters, bytes: Math.round(layer.bytes * keep) };
}

/** Index of the last element of an ascending list that is not above `most`; −1 where all are. */
function lastUpTo(list: readonly number[], most: number): number {
  let [low, high] = [0, list.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((list[middle] ?? Infinity) <= most) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low - 1;
}
