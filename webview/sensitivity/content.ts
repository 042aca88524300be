/** What there is to draw: from the profile as it is now, and what the user has chosen. No DOM here. */
import type { ProfileLayer, Sensitivity } from '../../extension/protocol/types.ts';
import type { Shown } from './facts.ts';
import { type Axis, Figures, type Value } from './figures.ts';
import { Grid } from '../ui/grid.ts';
import { defaultMetric, type Metric } from './metrics.ts';
import { nearestSize, type ViewState } from './state.ts';

export interface Content {
  readonly figures: Figures;
  readonly grid: Grid;
  readonly metrics: readonly Metric[];
  readonly shown: Shown;
  readonly sizes: readonly number[];
}

/** @param before what was drawn last: what has not changed is taken over. */
export function contentOf(profile: Sensitivity, state: Pick<ViewState, 'metric' | 'axis' | 'size'>, before: Content | undefined): Content {
  const figures = before?.figures.profile === profile ? before.figures : new Figures(profile);
  const grid = before?.figures.profile.layers === profile.layers ? before.grid : new Grid(profile.layers);
  const { metrics } = figures;
  const metric = metrics.find(({ id }) => id === state.metric) ?? defaultMetric(profile, metrics);
  const axis = state.axis ?? profile.sizes_are;
  const sizes = figures.sizes(metric, axis);
  const size = state.size === undefined ? freeSize(figures, metric, axis, sizes, before) : nearestSize(sizes, state.size);
  return { figures, grid, metrics, sizes, shown: { metric, axis, size: size ?? (axis === 'keep' ? 0.5 : 1) } };
}

/** Place by place, row by row. */
export function valuesOf({ figures, grid, shown: { metric, axis, size } }: Content): readonly (Value | undefined)[] {
  return [...grid.spots()].map(spot => {
    const layer = grid.at(spot);
    return layer && figures.value(layer.name, metric, axis, size);
  });
}

/** While the user has chosen none: what was shown, as long as it has figures; else the size that has the most. */
function freeSize(figures: Figures, metric: Metric, axis: Axis, sizes: readonly number[], before: Content | undefined): number | undefined {
  const has = (size: number) => (layer: ProfileLayer) => figures.value(layer.name, metric, axis, size) !== undefined;
  const { layers } = figures.profile;
  const last = before?.shown;
  if (last?.axis === axis && sizes.includes(last.size) && layers.some(has(last.size))) {
    return last.size;
  }
  const counts = sizes.map(size => layers.filter(has(size)).length);
  return nearestSize(
    sizes.filter((_, index) => counts[index] === Math.max(...counts)),
    undefined,
  );
}
