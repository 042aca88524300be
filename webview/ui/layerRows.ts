/** Layers as rows of a table: columns and their order. No DOM here. */

export interface Row {
  readonly layer: { readonly name: string };
}

export interface Column<R> {
  readonly id: string;
  readonly name: string;
  readonly hint: string;
  readonly text: (row: R) => string;
  readonly order: (row: R) => number | string | undefined;
}

export interface Sort {
  readonly column: string;
  readonly descending: boolean;
}

/** A sorted copy. What has no figure comes last, either way; names in natural order, so that block 10 comes after block 9. */
export function sortRows<R>(rows: readonly R[], columns: readonly Column<R>[], sort: Sort): readonly R[] {
  const order = columns.find(({ id }) => id === sort.column)?.order;
  if (!order) {
    return rows;
  }
  const sign = sort.descending ? -1 : 1;
  return rows.toSorted((a, b) => {
    const [x, y] = [order(a), order(b)];
    if (x === undefined || y === undefined) {
      return Number(x === undefined) - Number(y === undefined);
    }
    return sign * (typeof x === 'number' && typeof y === 'number' ? x - y : String(x).localeCompare(String(y), 'en', { numeric: true }));
  });
}
