/** One model, or two whose layers stand at the same places: a row a block, a column a layer kind. No DOM here. */
import type { MapLayer, MapModel } from '../../extension/protocol/types.ts';
import type { Geometry } from '../ui/geometry.ts';
import { Grid } from '../ui/grid.ts';

export interface Side {
  readonly model: MapModel;
  readonly grid: Grid<MapLayer>;
}

export interface Pair {
  readonly sides: readonly [Side] | readonly [Side, Side];
  /** Most parameters of a layer of each column. */
  readonly widths: readonly number[];
}

/** A place and what stands there. */
export interface PlacedPair {
  readonly layer: MapLayer;
  readonly of: readonly (MapLayer | undefined)[];
}

export function pairOf(model: MapModel, beside: MapModel | null | undefined): Pair {
  const models = beside ? [model, beside] : [model];
  const all = models.flatMap(({ layers }) => layers);
  const sideOf = (one: MapModel): Side => ({ model: one, grid: new Grid(one.layers, all) });
  const widths = new Map<string, number>();
  for (const { column, original_parameters } of all) {
    widths.set(column, Math.max(widths.get(column) ?? 0, original_parameters));
  }
  const first = sideOf(model);
  return { sides: beside ? [first, sideOf(beside)] : [first], widths: first.grid.columns.map(({ id }) => widths.get(id) ?? 0) };
}

/** Whether a model is what the one beside it was made from: then nothing of it is changed. */
export function isOriginal({ sides }: Pair, { model }: Side): boolean {
  return model.base == null && sides.some(other => other.model.base_path === model.path);
}

/** Of a layer: the same in both models. */
export function placeOf({ block, column }: Pick<MapLayer, 'block' | 'column'>): string {
  return `${block} ${column}`;
}

/** Row by row, those places where any model has a layer. */
export function placesOf({ sides }: Pair): readonly PlacedPair[] {
  return [...sides[0].grid.spots()].flatMap(spot => {
    const of = sides.map(({ grid }) => grid.at(spot));
    const layer = of.find(Boolean);
    return layer ? [{ layer, of }] : [];
  });
}

/** Part of the original's parameters that is stored. */
export function keptOf({ parameters, original_parameters }: Pick<MapLayer, 'parameters' | 'original_parameters'>): number {
  return original_parameters > 0 ? parameters / original_parameters : 1;
}

/** Bits of a stored number, scales and indices counted. */
export function bitsOf({ bytes, parameters }: Pick<MapLayer, 'bytes' | 'parameters'>): number {
  return parameters > 0 ? (8 * bytes) / parameters : 0;
}

/** Pixels: of a row, of a column at least, and of all columns at most. */
const ROW = { least: 8, most: 20 } as const;
const LEAST = 5;
const MOST = 8000;
/** Between the blocks and what is before and after them, in pixels. */
const SPACES = 30;

/**
 * Widths in proportion to the parameters: all that there is room for, more where the smallest layer would not be seen. Rows as high as lets
 * the whole model be seen at once, if that is not too low.
 */
export function geometryOf({ widths, sides }: Pair, room: { readonly width: number; readonly height: number }): Geometry {
  const total = widths.reduce((sum, width) => sum + width, 0);
  if (total === 0) {
    return { edges: [0], rowHeight: ROW.most };
  }
  const outside = sides.map(({ model }) => model.outside.reduce((rows, { parameters }) => rows + Math.max(1, parameters / total), 0));
  const rows = sides[0].grid.blocks.length + Math.max(...outside);
  const rowHeight = Math.max(ROW.least, Math.min(ROW.most, Math.floor((room.height - SPACES) / rows)));
  const smallest = Math.min(...widths.filter(width => width > 0));
  const pixels = Math.max(room.width, Math.min(MOST, (LEAST * total) / smallest));
  const edges = [0];
  let sum = 0;
  for (const width of widths) {
    sum += width;
    edges.push((pixels * sum) / total);
  }
  return { edges, rowHeight };
}

/** Pixels of one parameter in a row. */
export function scaleOf({ widths }: Pair, { edges }: Geometry): number {
  const total = widths.reduce((sum, width) => sum + width, 0);
  return total > 0 ? (edges.at(-1) ?? 0) / total : 0;
}
