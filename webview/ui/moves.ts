/** Where a key goes from a cell. No DOM here. */
import type { Grid, Spot } from './grid.ts';

const PAGE = 10;

/**
 * The spot after a key, within the grid and its labels (row or column −1); undefined for other keys.
 * @param far with Control or Command
 */
export function moved({ blocks, columns }: Pick<Grid, 'blocks' | 'columns'>, { row, column }: Spot, key: string, far: boolean): Spot | undefined {
  const moves: Readonly<Record<string, Spot>> = {
    ArrowUp: { row: row - 1, column },
    ArrowDown: { row: row + 1, column },
    ArrowLeft: { row, column: column - 1 },
    ArrowRight: { row, column: column + 1 },
    PageUp: { row: Math.max(0, row - PAGE), column },
    PageDown: { row: row + PAGE, column },
    Home: { row: far ? 0 : row, column: 0 },
    End: { row: far ? Infinity : row, column: Infinity },
  };
  const to = moves[key];
  return to && { row: within(to.row, blocks.length), column: within(to.column, columns.length) };
}

function within(at: number, count: number): number {
  return Math.max(-1, Math.min(count - 1, at));
}
