/** The tensors of a file as rows. */
import type { TensorInfo } from '../../extension/protocol/types.ts';
import { formatBytes, formatParameters } from '../../extension/runs/format.ts';
import { t } from '../ui/l10n.ts';
import { type Column, compareLists, NAMES, shapeText } from '../ui/listRows.ts';

export const COLUMNS: readonly Column<TensorInfo>[] = [
  { id: 'name', name: t('Tensor'), text: ({ name }) => name, order: (a, b) => NAMES.compare(a.name, b.name) },
  { id: 'shape', name: t('Shape'), text: ({ shape }) => shapeText(shape), order: (a, b) => compareLists(a.shape, b.shape) },
  { id: 'dtype', name: t('Dtype'), text: ({ dtype }) => dtype, order: (a, b) => NAMES.compare(a.dtype, b.dtype) },
  { id: 'parameters', name: t('Values'), text: ({ parameters }) => formatParameters(parameters), order: (a, b) => a.parameters - b.parameters },
  { id: 'bytes', name: t('Size'), text: ({ bytes }) => formatBytes(bytes), order: (a, b) => a.bytes - b.bytes },
];
