/** A checkpoint as a person sees it: model → blocks → layers, and what is neither. All names come from files and are not to be trusted. */
import type { Dtype } from 'safetensors-ts';
import type { ErrorInfo, Lineage } from '../protocol/types.ts';

export type LayerGroup = 'attention' | 'mlp' | 'other';
export type LayerState = 'dense' | 'mpo' | 'quantized';

export interface Tensor {
  readonly name: string;
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  readonly parameters: number;
  readonly bytes: number;
}

/** One linear map in a block. */
export interface Layer {
  /** Module path, such as `model.layers.3.mlp.down_proj`. */
  readonly name: string;
  readonly group: LayerGroup;
  /** [out, in]; [experts, out, in] as far as the names tell the axes of fused experts apart. Of the dense weight, whatever is stored. */
  readonly shape: readonly number[];
  readonly dtype: Dtype;
  /** Of all its tensors, bias included; a quantized weight counts its elements. */
  readonly parameters: number;
  /** On disk, of all its tensors. */
  readonly bytes: number;
  readonly state: LayerState;
  /** The file holds [in, out], as GPT-2's Conv1D does. */
  readonly transposed?: true;
  /** Of an MPO: the interior bonds. */
  readonly bondDims?: readonly number[];
  /** Of an MPO: parameters of the cores over those of the dense weight. */
  readonly keep?: number;
  /** Of a quantized layer: `nf4`, `int8`, `gptq`, … */
  readonly scheme?: string;
}

export interface Block {
  readonly index: number;
  /** Module path, such as `model.layers.3`. */
  readonly name: string;
  /** Attention, then MLP, then the rest; by name within each. */
  readonly layers: readonly Layer[];
  /** Norms, routers, buffers: whatever is not a layer. */
  readonly other: readonly Tensor[];
  readonly parameters: number;
  readonly bytes: number;
}

export interface OtherGroup {
  readonly name: 'embedding' | 'norm' | 'head' | 'other';
  readonly tensors: readonly Tensor[];
  readonly parameters: number;
  readonly bytes: number;
}

export interface Model {
  readonly folder: string;
  readonly name: string;
  /** The model's class, of a compressed model that of its base; null where config.json does not say. */
  readonly architecture: string | null;
  readonly modelType: string | null;
  readonly parameters: number;
  /** Of all tensors. */
  readonly bytes: number;
  /** Module path of the list of blocks, such as `model.layers`; null where the model has none. */
  readonly container: string | null;
  readonly blocks: readonly Block[];
  /** Outside the blocks; only the groups that have tensors. */
  readonly other: readonly OtherGroup[];
  /** Elements as stored, by dtype, most bytes first. */
  readonly dtypes: readonly { readonly dtype: Dtype; readonly parameters: number; readonly bytes: number }[];
  /** config.json names Python code that is not ours: running the model asks first. */
  readonly needsCode: boolean;
  /** What is wrong but leaves the model readable. */
  readonly problems: readonly ErrorInfo[];
  /** Of a compressed model: where it comes from and what was measured. */
  readonly lineage?: Lineage;
}
