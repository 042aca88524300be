/** Size, place and look of the cells: the same on the screen and in a picture to keep. */
import type { Value } from './figures.ts';
import type { Grid, Spot } from './grid.ts';
import { colourAt, css, inkOn, type Scale } from './scale.ts';

export interface Geometry {
  readonly cellWidth: number;
  readonly cellHeight: number;
}

/** Between two cells, in CSS pixels. */
export const GAP = 1;
/** Radius of the mark for noise. */
export const DOT = 2;

export function look(value: Value, scale: Scale, dark: boolean): { readonly fill: string; readonly ink: string } {
  const colour = colourAt(scale.position(value.rise), dark);
  return { fill: css(colour), ink: inkOn(colour) };
}

/** @returns undefined between no cells: beyond the grid's edge. */
export function spotAt(grid: Grid, { cellWidth, cellHeight }: Geometry, x: number, y: number): Spot | undefined {
  const spot = { row: Math.floor(y / cellHeight), column: Math.floor(x / cellWidth) };
  return spot.row >= 0 && spot.row < grid.blocks.length && spot.column >= 0 && spot.column < grid.columns.length ? spot : undefined;
}
