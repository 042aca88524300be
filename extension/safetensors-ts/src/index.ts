export { type Checkpoint, chooseFiles, findTensor, openCheckpoint } from './checkpoint.ts';
export { type Dtype, DTYPE_BITS, isDtype } from './dtypes.ts';
export { SafetensorsError, type SafetensorsErrorCode, shown } from './errors.ts';
export { Pace } from './pace.ts';
export { readHeader, readRawHeader, readTensorBytes, type SafetensorsFile } from './file.ts';
export { type Header, MAX_HEADER_BYTES, type TensorEntry } from './header.ts';
export { MAX_INDEX_BYTES, readIndex, type ShardIndex } from './shard-index.ts';
