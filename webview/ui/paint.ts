/** What all sheets paint alike. */
import { columnAt, GAP, type Geometry } from './geometry.ts';
import type { Grid } from './grid.ts';
import type { Theme } from './theme.ts';

/** Around the selected cells, not between them. */
export function outline(context: CanvasRenderingContext2D, grid: Grid, selected: ReadonlySet<string>, geometry: Geometry, theme: Theme): void {
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
    const { left, width } = columnAt(geometry, column);
    const top = row * geometry.rowHeight;
    const [right, bottom] = [left + width, top + geometry.rowHeight - GAP];
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

/** Where nothing is known. */
export function striped(context: CanvasRenderingContext2D, theme: Theme): CanvasPattern | string {
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
