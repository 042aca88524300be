/** Where each layer of a model stands: a row a block, a column a layer kind. */
import type { ProfileLayer } from '../../extension/protocol/types.ts';
import { t } from '../ui/l10n.ts';

/** A layer as far as its place goes. */
export type Placed = Pick<ProfileLayer, 'name' | 'block' | 'column' | 'group'>;

export interface GridColumn {
  readonly id: string;
  /** As short as it can be without two of them being alike. */
  readonly label: string;
  readonly group: ProfileLayer['group'];
}

export interface Spot {
  readonly row: number;
  readonly column: number;
}

const GROUPS: readonly ProfileLayer['group'][] = ['attention', 'mlp', 'other'];
export const GROUP_NAMES: Readonly<Record<ProfileLayer['group'], string>> = { attention: t('Attention'), mlp: t('MLP'), other: t('Other') };

export class Grid<L extends Placed = Placed> {
  /** Block indices, ascending. */
  readonly blocks: readonly number[];
  /** Attention first, then MLP, each in the order of the profile; the union over all blocks. */
  readonly columns: readonly GridColumn[];
  readonly #places: readonly (L | undefined)[];
  readonly #spots = new Map<string, Spot>();

  /** @param all whose places there are: more than its own where grids stand side by side. */
  constructor(layers: readonly L[], all: readonly Placed[] = layers) {
    this.blocks = [...new Set(all.map(layer => layer.block))].sort((a, b) => a - b);
    const kinds = new Map(all.map(layer => [layer.column, layer.group]));
    const places = meanPlaces(all);
    const ordered = [...kinds].sort(([a, x], [b, y]) => GROUPS.indexOf(x) - GROUPS.indexOf(y) || (places.get(a) ?? 0) - (places.get(b) ?? 0));
    const labels = shortLabels(ordered.map(([id]) => id));
    this.columns = ordered.map(([id, group], i) => ({ id, group, label: labels[i] ?? id }));
    const rowOf = new Map(this.blocks.map((block, row) => [block, row]));
    const columnOf = new Map(this.columns.map(({ id }, column) => [id, column]));
    const cells: (L | undefined)[] = Array.from({ length: this.blocks.length * this.columns.length });
    for (const layer of layers) {
      const spot = { row: rowOf.get(layer.block) ?? 0, column: columnOf.get(layer.column) ?? 0 };
      cells[spot.row * this.columns.length + spot.column] = layer;
      this.#spots.set(layer.name, spot);
    }
    this.#places = cells;
  }

  /** Undefined where a block has no such layer. */
  at({ row, column }: Spot): L | undefined {
    return column >= 0 && column < this.columns.length ? this.#places[row * this.columns.length + column] : undefined;
  }

  spotOf(layer: string): Spot | undefined {
    return this.#spots.get(layer);
  }

  has(layer: string): boolean {
    return this.#spots.has(layer);
  }

  /** All spots, row by row, also those without a layer. */
  *spots(): Generator<Spot> {
    for (let row = 0; row < this.blocks.length; row++) {
      for (let column = 0; column < this.columns.length; column++) {
        yield { row, column };
      }
    }
  }

  /** Names of the layers in the rectangle that two corners span. */
  within(a: Spot, b: Spot): readonly string[] {
    const names: string[] = [];
    for (let row = Math.min(a.row, b.row); row <= Math.max(a.row, b.row); row++) {
      for (let column = Math.min(a.column, b.column); column <= Math.max(a.column, b.column); column++) {
        const layer = this.at({ row, column });
        if (layer) {
          names.push(layer.name);
        }
      }
    }
    return names;
  }
}

/** The blocks of the paper's figure: the first, a sixth in (block 5 of 32), the middle (15 of 32) and the last. */
export function figureBlocks(blocks: readonly number[]): readonly number[] {
  const last = blocks.length - 1;
  const rows = [0, Math.round(last / 6), Math.floor(last / 2), last];
  return [...new Set(rows)].flatMap(row => blocks[row] ?? []);
}

/** Where a layer kind stands in its block, on average: blocks that lack some kinds do not put the others out of order. */
function meanPlaces(layers: readonly Placed[]): ReadonlyMap<string, number> {
  const seen = new Map<number, number>();
  const sums = new Map<string, { total: number; count: number }>();
  for (const { block, column } of layers) {
    const place = seen.get(block) ?? 0;
    seen.set(block, place + 1);
    const sum = sums.get(column) ?? { total: 0, count: 0 };
    sums.set(column, { total: sum.total + place, count: sum.count + 1 });
  }
  return new Map([...sums].map(([column, { total, count }]) => [column, total / count]));
}

/** The last part of each path, with as many parts before it as tell it from the others; `_proj` says nothing and goes. */
function shortLabels(ids: readonly string[]): readonly string[] {
  const short = (id: string, parts: number) =>
    id
      .split('.')
      .slice(-parts)
      .join('.')
      .replace(/_proj$/, '');
  return ids.map(id => {
    let parts = 1;
    while (parts < id.split('.').length && ids.some(other => other !== id && short(other, parts) === short(id, parts))) {
      parts++;
    }
    return short(id, parts);
  });
}
