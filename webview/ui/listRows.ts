/** Named things as rows of a long list: searched, sorted. No DOM here. */
import { t } from './l10n.ts';

export interface Named {
  readonly name: string;
}

export interface Column<R> {
  readonly id: string;
  readonly name: string;
  readonly hint?: string;
  readonly text: (row: R) => string;
  readonly order: (a: R, b: R) => number;
  /** From 0 to 1: drawn as a bar behind the text. */
  readonly part?: (row: R) => number | undefined;
}

export interface Sort {
  /** Undefined: the order in which they came. */
  readonly column: string | undefined;
  readonly descending: boolean;
}

/** Numbers in names count as numbers, so that block 10 follows block 9. */
export const NAMES = new Intl.Collator('en', { numeric: true });

/** Those whose name has every word of `search`, whatever their case. */
export function chooseRows<R extends Named>(rows: readonly R[], columns: readonly Column<R>[], search: string, { column, descending }: Sort): readonly R[] {
  const words = search.toLowerCase().split(/\s+/).filter(Boolean);
  const found = words.length === 0 ? rows : rows.filter(({ name }) => words.every(word => name.toLowerCase().includes(word)));
  const order = columns.find(({ id }) => id === column)?.order;
  if (!order) {
    return found;
  }
  const sorted = found.toSorted(order);
  return descending ? sorted.reverse() : sorted;
}

/** Up, down and back to the order in which they came. */
export function nextSort(now: Sort, column: string): Sort {
  if (now.column !== column) {
    return { column, descending: false };
  }
  return now.descending ? { column: undefined, descending: false } : { column, descending: true };
}

export function shapeText(shape: readonly number[]): string {
  return shape.length === 0 ? t('scalar') : shape.join(' × ');
}

/** Lists of fewer numbers first. */
export function compareLists(a: readonly number[], b: readonly number[]): number {
  const at = a.findIndex((size, index) => size !== b[index]);
  return a.length - b.length || (at < 0 ? 0 : (a[at] ?? 0) - (b[at] ?? 0));
}
