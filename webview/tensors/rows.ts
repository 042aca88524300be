/** The tensors of a file as rows: filtered, sorted, written out. */
import type { TensorInfo } from '../../extension/protocol/types.ts';
import { formatBytes, formatParameters } from '../../extension/runs/format.ts';
import { t } from '../ui/l10n.ts';

export type ColumnId = 'name' | 'shape' | 'dtype' | 'parameters' | 'bytes';

export interface Column {
  readonly id: ColumnId;
  readonly name: string;
  readonly text: (tensor: TensorInfo) => string;
}

export interface Sort {
  /** Undefined: the order of the file. */
  readonly column: ColumnId | undefined;
  readonly descending: boolean;
}

export const COLUMNS: readonly Column[] = [
  { id: 'name', name: t('Tensor'), text: ({ name }) => name },
  { id: 'shape', name: t('Shape'), text: ({ shape }) => shapeText(shape) },
  { id: 'dtype', name: t('Dtype'), text: ({ dtype }) => dtype },
  { id: 'parameters', name: t('Values'), text: ({ parameters }) => formatParameters(parameters) },
  { id: 'bytes', name: t('Size'), text: ({ bytes }) => formatBytes(bytes) },
];

/** Numbers in names count as numbers, so that block 10 follows block 9. */
const NAMES = new Intl.Collator('en', { numeric: true });

/** Those whose name has every word of `search`, whatever their case. */
export function chooseRows(tensors: readonly TensorInfo[], search: string, { column, descending }: Sort): readonly TensorInfo[] {
  const words = search.toLowerCase().split(/\s+/).filter(Boolean);
  const found = words.length === 0 ? tensors : tensors.filter(({ name }) => words.every(word => name.toLowerCase().includes(word)));
  if (column === undefined) {
    return found;
  }
  const sorted = found.toSorted(orders[column]);
  return descending ? sorted.reverse() : sorted;
}

const orders: Readonly<Record<ColumnId, (a: TensorInfo, b: TensorInfo) => number>> = {
  name: (a, b) => NAMES.compare(a.name, b.name),
  shape: (a, b) => a.shape.length - b.shape.length || compareLists(a.shape, b.shape),
  dtype: (a, b) => NAMES.compare(a.dtype, b.dtype),
  parameters: (a, b) => a.parameters - b.parameters,
  bytes: (a, b) => a.bytes - b.bytes,
};

export function shapeText(shape: readonly number[]): string {
  return shape.length === 0 ? t('scalar') : shape.join(' × ');
}

/** Up, down and back to the order of the file. */
export function nextSort(now: Sort, column: ColumnId): Sort {
  if (now.column !== column) {
    return { column, descending: false };
  }
  return now.descending ? { column: undefined, descending: false } : { column, descending: true };
}

function compareLists(a: readonly number[], b: readonly number[]): number {
  const at = a.findIndex((size, index) => size !== b[index]);
  return at < 0 ? 0 : (a[at] ?? 0) - (b[at] ?? 0);
}
