/** How the curves of the selected layers share charts: few together, many side by side so that none hides another. */
import type { Grid } from '../ui/grid.ts';
import { t } from '../ui/l10n.ts';

export interface Trace {
  readonly layer: string;
  readonly label: string;
  /** Number of its colour; or its place from the first block, 0, to the last, 1. */
  readonly tone: { readonly category: number } | { readonly depth: number };
}

export interface Facet {
  readonly title: string;
  readonly traces: readonly Trace[];
}

export interface Facets {
  readonly facets: readonly Facet[];
  /** One legend for all: the categories by name; undefined where colours say the block. */
  readonly categories: readonly string[] | undefined;
  /** Layers that were left out, since they would not fit. */
  readonly left: number;
}

/** As many colours as can be told apart. */
export const CATEGORIES = 8;
const MOST_BLOCKS = 6;
const MOST_FACETS = 12;

/** At most eight lines share a chart; else a chart a block where the blocks are few; else a chart a layer kind, from the first block to the last. */
export function facetsOf(grid: Grid, selected: ReadonlySet<string>): Facets {
  const layers = [...grid.spots()].flatMap(({ row, column }) => {
    const layer = grid.at({ row, column });
    return layer && selected.has(layer.name) ? [{ layer, row, column }] : [];
  });
  const rows = [...new Set(layers.map(({ row }) => row))];
  const columns = [...new Set(layers.map(({ column }) => column))];
  const name = (column: number) => grid.columns[column]?.label ?? '';
  if (layers.length <= CATEGORIES) {
    const sameKind = columns.length === 1;
    const traces = layers.map(({ layer, column }, category) => {
      const label = rows.length === 1 ? name(column) : t('Block {0} · {1}', layer.block, name(column));
      return { layer: layer.name, label, tone: { category } };
    });
    const title = rows.length === 1 ? t('Block {0}', layers[0]?.layer.block ?? '') : sameKind ? t('{0} of {1} blocks', name(columns[0] ?? 0), rows.length) : t('{0} layers', layers.length);
    return { facets: layers.length === 0 ? [] : [{ title, traces }], categories: traces.map(({ label }) => label), left: 0 };
  }
  if (rows.length <= MOST_BLOCKS && columns.length <= CATEGORIES) {
    const facets = rows.map(at => ({
      title: t('Block {0}', grid.blocks[at] ?? ''),
      traces: layers
        .filter(({ row }) => row === at)
        .map(({ layer, column }) => ({ layer: layer.name, label: name(column), tone: { category: columns.indexOf(column) } })),
    }));
    return { facets, categories: columns.map(name), left: 0 };
  }
  const last = Math.max(1, grid.blocks.length - 1);
  const shown = columns.sort((a, b) => a - b).slice(0, MOST_FACETS);
  const facets = shown.map(at => ({
    title: name(at),
    traces: layers
      .filter(({ column }) => column === at)
      .map(({ layer, row }) => ({ layer: layer.name, label: t('Block {0}', layer.block), tone: { depth: row / last } })),
  }));
  const drawn = facets.reduce((sum, { traces }) => sum + traces.length, 0);
  return { facets, categories: undefined, left: layers.length - drawn };
}
