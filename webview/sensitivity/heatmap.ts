/** The cells of the heatmap on a canvas: one pass over all of them each time, so that a half-drawn picture is never seen. */
import { formatShare } from '../../extension/views/measured.ts';
import type { Theme } from '../ui/theme.ts';
import { columnAt, even, GAP, type Geometry, widthOf } from '../ui/geometry.ts';
import { outline, striped } from '../ui/paint.ts';
import type { Picture } from '../ui/sheet.ts';
import { DOT, look } from './cells.ts';
import type { Value } from './figures.ts';
import type { Grid } from '../ui/grid.ts';
import type { Scale } from '../ui/scale.ts';

export interface HeatmapInput {
  readonly grid: Grid;
  /** Row by row; undefined where nothing is known. */
  readonly values: readonly (Value | undefined)[];
  readonly scale: Scale;
  readonly selected: ReadonlySet<string>;
  /** Part kept of each layer, to be written in its cell. */
  readonly overlay: Readonly<Record<string, number>> | undefined;
  readonly theme: Theme;
}

const CELL = { width: [44, 96], height: 18 } as const;

/** For a sheet: never narrower than its cells. */
export function heatmap(input: HeatmapInput): Picture {
  const count = input.grid.columns.length;
  const [least, most] = CELL.width;
  return {
    grid: input.grid,
    measure: width => even(count, Math.min(most, Math.max(least, Math.floor(width / Math.max(1, count)))), CELL.height),
    paint: (context, geometry, ratio) => draw(context, input, geometry, ratio),
  };
}

function draw(context: CanvasRenderingContext2D, input: HeatmapInput, geometry: Geometry, ratio: number): void {
  const { grid, values, scale, theme, overlay, selected } = input;
  const { rowHeight } = geometry;
  const height = rowHeight - GAP;
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, widthOf(geometry), grid.blocks.length * rowHeight);
  context.font = `600 ${Math.min(11, rowHeight - 6)}px ${theme.font}`;
  context.textAlign = 'center';
  context.textBaseline = 'middle';
  const stripes = striped(context, theme);
  let index = 0;
  for (const { row, column } of grid.spots()) {
    const value = values[index++];
    const layer = grid.at({ row, column });
    if (!layer) {
      continue;
    }
    const { left: x, width } = columnAt(geometry, column);
    const y = row * rowHeight;
    const { fill, ink } = value ? look(value, scale, theme.dark) : { fill: stripes, ink: theme.foreground };
    context.fillStyle = fill;
    context.fillRect(x, y, width, height);
    if (theme.contrast) {
      context.strokeStyle = theme.border;
      context.lineWidth = 1;
      context.strokeRect(x + 0.5, y + 0.5, width - 1, height - 1);
    }
    const keep = overlay?.[layer.name];
    context.fillStyle = ink;
    if (keep !== undefined) {
      context.fillText(formatShare(keep), x + width / 2, y + height / 2 + 0.5);
    }
    if (value?.noise) {
      context.beginPath();
      context.arc(keep === undefined ? x + width / 2 : x + width - 3 * DOT, y + height / 2, DOT, 0, 2 * Math.PI);
      context.fill();
    }
  }
  outline(context, grid, selected, geometry, theme);
}
