export { codeHash, hasOtherModule, OWN_MODULE, pythonFiles } from './code.ts';
export { CheckpointError, type CheckpointProblem, problemOf, reasonOf } from './errors.ts';
export { classifyFolder, findModels, type FolderKind } from './folder.ts';
export { fingerprintOf } from './fingerprint.ts';
export { FolderWatchers } from './follow.ts';
export { toInspection } from './inspection.ts';
export { openModel } from './model.ts';
export type { Block, Layer, LayerGroup, LayerState, Model, OtherGroup, Tensor } from './types.ts';
