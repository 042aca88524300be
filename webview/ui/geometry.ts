/** Where the cells of a sheet are: columns of any width, rows of one height. CSS pixels. No DOM here. */
import type { Grid, Spot } from './grid.ts';

export interface Geometry {
  /** The left edge of each column, and the right one of the last. */
  readonly edges: readonly number[];
  readonly rowHeight: number;
}

/** Between two cells, in CSS pixels. */
export const GAP = 1;

/** All columns alike. */
export function even(columns: number, width: number, rowHeight: number): Geometry {
  return { edges: Array.from({ length: columns + 1 }, (_, column) => column * width), rowHeight };
}

export function widthOf({ edges }: Geometry): number {
  return edges.at(-1) ?? 0;
}

/** Left edge and width of a column, the gap left out. */
export function columnAt({ edges }: Geometry, column: number): { readonly left: number; readonly width: number } {
  const left = edges[column] ?? 0;
  return { left, width: Math.max(0, (edges[column + 1] ?? left) - left - GAP) };
}

/** @returns undefined between no cells: beyond the grid's edge. */
export function spotAt(grid: Pick<Grid, 'blocks' | 'columns'>, { edges, rowHeight }: Geometry, x: number, y: number): Spot | undefined {
  const row = Math.floor(y / rowHeight);
  if (row < 0 || row >= grid.blocks.length || x < 0 || x >= (edges[grid.columns.length] ?? 0)) {
    return undefined;
  }
  let [low, high] = [0, grid.columns.length - 1];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if ((edges[middle] ?? 0) <= x) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return { row, column: low };
}
