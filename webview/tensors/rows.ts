/** The tensors of a file as rows. */
import type { TensorInfo } from '../../extension/protocol/types.ts';
import { formatBytes, formatParameters } from '../../extension/runs/format.ts';
import { type Column, compareLists, NAMES, shapeText } from '../ui/listRows.ts';

export const COLUMNS: readonly Column<TensorInfo>[] = [
  { id: 'name', name: 'Tensor', text: ({ name }) => name, order: (a, b) => NAMES.compare(a.name, b.name) },
  { id: 'shape', name: 'Shape', text: ({ shape }) => shapeText(shape), order: (a, b) => compareLists(a.shape, b.shape) },
  { id: 'dtype', name: 'Dtype', text: ({ dtype }) => dtype, order: (a, b) => NAMES.compare(a.dtype, b.dtype) },
  { id: 'parameters', name: 'Values', text: ({ parameters }) => formatParameters(parameters), order: (a, b) => a.parameters - b.parameters },
  { id: 'bytes', name: 'Size', text: ({ bytes }) => formatBytes(bytes), order: (a, b) => a.bytes - b.bytes },
];
