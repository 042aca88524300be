/** A model as the engine's `inspect --json` gives it: both sides must see the same thing. */
import type { BlockInfo, Inspection, LayerInfo, TensorInfo } from '../protocol/types.ts';
import { naturalKey } from './names.ts';
import type { Layer, Model, Tensor } from './types.ts';

export function toInspection(model: Model): Inspection {
  const other = [...model.blocks.flatMap((block) => block.other), ...model.other.flatMap((group) => group.tensors)];
  const keyed = other.map((tensor) => ({ tensor, key: naturalKey(tensor.name) }));
  keyed.sort((a, b) => (a.key < b.key ? -1 : a.key > b.key ? 1 : 0));
  return {
    model: model.folder,
    architecture: model.architecture,
    parameters: model.parameters,
    bytes: model.bytes,
    blocks: model.blocks.map(({ index, name, layers }): BlockInfo => ({ index, name, layers: layers.map(layerInfo) })),
    other: keyed.map(({ tensor }) => tensorInfo(tensor)),
  };
}

function layerInfo({ name, group, shape, dtype, parameters, bytes, state, bondDims, scheme }: Layer): LayerInfo {
  return { name, group, shape: [...shape], dtype, parameters, bytes, state, bond_dims: bondDims ? [...bondDims] : null, scheme: scheme ?? null };
}

function tensorInfo({ name, shape, dtype, parameters, bytes }: Tensor): TensorInfo {
  return { name, shape: [...shape], dtype, parameters, bytes };
}
