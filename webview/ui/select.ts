/** Which layers are selected after a click, a drag or a key: pure. */
import type { Grid, Spot } from './grid.ts';

export interface Selection {
  readonly layers: ReadonlySet<string>;
  /** Where a range starts that Shift extends. */
  readonly anchor: Spot | undefined;
}

export const NOTHING: Selection = { layers: new Set(), anchor: undefined };

/** `only` replaces, `toggle` (Ctrl, on a Mac ⌘) adds or takes away, `extend` (Shift) spans from the anchor, `add` spans and keeps the rest. */
export type Mode = 'only' | 'toggle' | 'extend' | 'add';

export function modeOf(event: { readonly shiftKey: boolean; readonly ctrlKey: boolean; readonly metaKey: boolean }): Mode {
  const more = event.ctrlKey || event.metaKey;
  return event.shiftKey ? (more ? 'add' : 'extend') : more ? 'toggle' : 'only';
}

/** A spot with the row or the column of −1 is the label of a whole column or row; with both, of everything. */
export function choose(grid: Grid, before: Selection, spot: Spot, mode: Mode): Selection {
  if (mode === 'only') {
    return { layers: new Set(span(grid, spot, spot)), anchor: spot };
  }
  if (mode === 'toggle') {
    const names = span(grid, spot, spot);
    const layers = new Set(before.layers);
    const remove = names.length > 0 && names.every(name => layers.has(name));
    names.forEach(name => (remove ? layers.delete(name) : layers.add(name)));
    return { layers, anchor: spot };
  }
  const anchor = before.anchor ?? spot;
  const names = span(grid, anchor, spot);
  return { layers: new Set(mode === 'add' ? [...before.layers, ...names] : names), anchor };
}

/** What a drag from the anchor has caught; `before` is what was selected when it started. */
export function drag(grid: Grid, before: Selection, from: Spot, to: Spot, keep: boolean): Selection {
  return { layers: new Set([...(keep ? before.layers : []), ...grid.within(from, to)]), anchor: from };
}

export function sameLayers(a: ReadonlySet<string>, b: ReadonlySet<string>): boolean {
  return a.size === b.size && [...a].every(name => b.has(name));
}

function span(grid: Grid, a: Spot, b: Spot): readonly string[] {
  const last = { row: grid.blocks.length - 1, column: grid.columns.length - 1 };
  const [wholeRow, wholeColumn] = [a.column < 0 || b.column < 0, a.row < 0 || b.row < 0];
  const from = { row: wholeColumn ? 0 : a.row, column: wholeRow ? 0 : a.column };
  const to = { row: wholeColumn ? last.row : b.row, column: wholeRow ? last.column : b.column };
  return grid.within(from, to);
}
