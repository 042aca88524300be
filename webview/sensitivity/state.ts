/** What the view keeps over a reload; the profile it is of is the document's. */
import type { Axis } from './figures.ts';
import type { Sort } from '../ui/layerRows.ts';
import { fieldsOf, textsOf } from '../ui/stored.ts';

export interface ViewState {
  /** Undefined until the user has chosen: the view chooses what it can show best. */
  readonly metric?: string | undefined;
  readonly axis?: Axis | undefined;
  readonly size?: number | undefined;
  readonly selected: readonly string[];
  readonly table: boolean;
  /** The plan's shares are written into the cells. */
  readonly overlay: boolean;
  readonly sort: Sort;
  readonly scroll: { readonly x: number; readonly y: number };
}

export const INITIAL: ViewState = { selected: [], table: false, overlay: true, sort: { column: 'layer', descending: false }, scroll: { x: 0, y: 0 } };

/** Takes of a stored state what is of the right kind: an older version may have written it. */
export function readState(stored: unknown): ViewState {
  const { metric, axis, size, selected, table, overlay, sort, scroll } = fieldsOf(stored);
  const [order, at] = [fieldsOf(sort), fieldsOf(scroll)];
  return {
    ...(typeof metric === 'string' && { metric }),
    ...((axis === 'keep' || axis === 'chi') && { axis }),
    ...(typeof size === 'number' && size > 0 && { size }),
    selected: textsOf(selected) ?? INITIAL.selected,
    table: table === true,
    overlay: overlay !== false,
    sort: typeof order.column === 'string' && typeof order.descending === 'boolean' ? { column: order.column, descending: order.descending } : INITIAL.sort,
    scroll: typeof at.x === 'number' && typeof at.y === 'number' ? { x: at.x, y: at.y } : INITIAL.scroll,
  };
}

/** The size that is nearest by factor; without one the middle one. */
export function nearestSize(sizes: readonly number[], wanted: number | undefined): number | undefined {
  if (wanted === undefined) {
    return sizes[Math.floor((sizes.length - 1) / 2)];
  }
  const far = (size: number) => Math.abs(Math.log(size / wanted));
  return sizes.toSorted((a, b) => far(a) - far(b))[0];
}
