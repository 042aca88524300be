/** The cells of the heatmap on a canvas: one pass over all of them each time, so that a half-drawn picture is never seen. */
import { formatShare } from '../../extension/views/measured.ts';
import type { Theme } from '../ui/theme.ts';
import { DOT, GAP, type Geometry, look } from './cells.ts';
import type { Value } from './figures.ts';
import type { Grid } from './grid.ts';
import type { Scale } from './scale.ts';

export interface Picture {
  readonly grid: Grid;
  /** Row by row; undefined where nothing is known. */
  readonly values: readonly (Value | undefined)[];
  readonly scale: Scale;
  readonly selected: ReadonlySet<string>;
  /** Part kept of each layer, to be written in its cell. */
  readonly overlay: Readonly<Record<string, number>> | undefined;
  readonly theme: Theme;
}

/** Browsers refuse canvases beyond this many pixels on a side, and one in all should not take more memory than 128 MB. */
const MAX_SIDE = 16_000;
const MAX_PIXELS = 32e6;

/** Sets a canvas to the size of the grid, as sharp as the screen where that is possible. Says how many pixels a CSS pixel has. */
export function fit(canvas: HTMLCanvasElement, grid: Grid, { cellWidth, cellHeight }: Geometry): number {
  const [width, height] = [grid.columns.length * cellWidth, grid.blocks.length * cellHeight];
  const ratio = Math.min(window.devicePixelRatio, MAX_SIDE / width, MAX_SIDE / height, Math.sqrt(MAX_PIXELS / (width * height)));
  const [across, down] = [Math.max(1, Math.round(width * ratio)), Math.max(1, Math.round(height * ratio))];
  if (canvas.width !== across || canvas.height !== down) {
    canvas.width = across;
    canvas.height = down;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  return ratio;
}

export function draw(context: CanvasRenderingContext2D, picture: Picture, geometry: Geometry, ratio: number): void {
  const { grid, values, scale, theme, overlay, selected } = picture;
  const { cellWidth, cellHeight } = geometry;
  const [width, height] = [cellWidth - GAP, cellHeight - GAP];
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, grid.columns.length * cellWidth, grid.blocks.length * cellHeight);
  context.font = `600 ${Math.min(11, cellHeight - 6)}px ${theme.font}`;
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
    const [x, y] = [column * cellWidth, row * cellHeight];
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

/** Around the selected cells, not between them. */
function outline(context: CanvasRenderingContext2D, grid: Grid, selected: ReadonlySet<string>, { cellWidth, cellHeight }: Geometry, theme: Theme): void {
  if (selected.size === 0) {
    return;
  }
  const isIn = (row: number, column: number) => {
    const layer = grid.at({ row, column });
    return layer !== undefined && selected.has(layer.name);
  };
  context.beginPath();
  for (const { row, column } of grid.spots()) {
    if (!isIn(row, column)) {
      continue;
    }
    const [left, top] = [column * cellWidth, row * cellHeight];
    const [right, bottom] = [left + cellWidth - GAP, top + cellHeight - GAP];
    const edges: readonly (readonly [boolean, number, number, number, number])[] = [
      [isIn(row - 1, column), left - GAP, top, right + GAP, top],
      [isIn(row + 1, column), left - GAP, bottom, right + GAP, bottom],
      [isIn(row, column - 1), left, top - GAP, left, bottom + GAP],
      [isIn(row, column + 1), right, top - GAP, right, bottom + GAP],
    ];
    for (const [shared, x0, y0, x1, y1] of edges) {
      if (!shared) {
        context.moveTo(x0, y0);
        context.lineTo(x1, y1);
      }
    }
  }
  context.lineCap = 'square';
  for (const [colour, width] of [[theme.background, 5], [theme.foreground, 2]] as const) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.stroke();
  }
}

function striped(context: CanvasRenderingContext2D, theme: Theme): CanvasPattern | string {
  const tile = document.createElement('canvas');
  tile.width = tile.height = 6;
  const brush = tile.getContext('2d');
  if (!brush) {
    return 'transparent';
  }
  brush.strokeStyle = theme.muted;
  brush.globalAlpha = theme.contrast ? 0.45 : 0.3;
  brush.beginPath();
  for (const shift of [-6, 0, 6]) {
    brush.moveTo(shift, 6);
    brush.lineTo(shift + 6, 0);
  }
  brush.stroke();
  return context.createPattern(tile, 'repeat') ?? 'transparent';
}
