/** The rows of the Models view: what is below what, and which layers a row stands for. */
import type { Block, Layer, Model, OtherGroup, Tensor } from '../checkpoint/index.ts';
import type { ErrorInfo } from '../protocol/types.ts';
import type { ModelEntry } from './modelList.ts';

/** Above this many layers a block shows groups first: mixtures of experts have hundreds. */
const GROUPED_ABOVE = 16;

export class ModelNode {
  readonly entry: ModelEntry;

  constructor(entry: ModelEntry) {
    this.entry = entry;
  }
}

/** Something that is wrong but leaves the model readable. */
export class ProblemNode {
  readonly parent: ModelNode;
  readonly problem: ErrorInfo;

  constructor(parent: ModelNode, problem: ErrorInfo) {
    this.parent = parent;
    this.problem = problem;
  }
}

export class BlockNode {
  readonly parent: ModelNode;
  readonly model: Model;
  readonly block: Block;

  constructor(parent: ModelNode, model: Model, block: Block) {
    this.parent = parent;
    this.model = model;
    this.block = block;
  }
}

/** The attention or MLP layers of a large block. */
export class GroupNode {
  readonly parent: BlockNode;
  readonly group: Layer['group'];

  constructor(parent: BlockNode, group: Layer['group']) {
    this.parent = parent;
    this.group = group;
  }

  get layers(): readonly Layer[] {
    return this.parent.block.layers.filter(layer => layer.group === this.group);
  }
}

export class LayerNode {
  readonly parent: BlockNode | GroupNode;
  readonly model: Model;
  readonly block: Block;
  readonly layer: Layer;

  constructor(parent: BlockNode | GroupNode, { model, block }: BlockNode, layer: Layer) {
    this.parent = parent;
    this.model = model;
    this.block = block;
    this.layer = layer;
  }
}

/** Embedding, norms, head: tensors outside the layers, of the model or of a block. */
export class TensorsNode {
  readonly parent: ModelNode | BlockNode;
  readonly model: Model;
  readonly group: Pick<OtherGroup, 'tensors' | 'parameters' | 'bytes'> & { readonly name: OtherGroup['name'] };

  constructor(parent: ModelNode | BlockNode, model: Model, group: TensorsNode['group']) {
    this.parent = parent;
    this.model = model;
    this.group = group;
  }
}

export class TensorNode {
  readonly parent: ModelNode | TensorsNode;
  readonly model: Model;
  readonly tensor: Tensor;
  /** Shown instead of the tensor's name where it stands alone. */
  readonly role: OtherGroup['name'] | undefined;

  constructor(parent: ModelNode | TensorsNode, model: Model, tensor: Tensor, role?: OtherGroup['name']) {
    this.parent = parent;
    this.model = model;
    this.tensor = tensor;
    this.role = role;
  }
}

export type TreeNode = ModelNode | ProblemNode | BlockNode | GroupNode | LayerNode | TensorsNode | TensorNode;

export function isTreeNode(value: unknown): value is TreeNode {
  return [ModelNode, ProblemNode, BlockNode, GroupNode, LayerNode, TensorsNode, TensorNode].some(kind => value instanceof kind);
}

export function childrenOf(node: TreeNode): readonly TreeNode[] {
  if (node instanceof ModelNode) {
    const { model } = node.entry;
    return model
      ? [
          ...model.problems.map(problem => new ProblemNode(node, problem)),
          ...model.blocks.map(block => new BlockNode(node, model, block)),
          ...model.other.map(group => tensorsOf(node, model, group)),
        ]
      : [];
  }
  if (node instanceof BlockNode) {
    return blockChildren(node);
  }
  if (node instanceof GroupNode) {
    return node.layers.map(layer => new LayerNode(node, node.parent, layer));
  }
  return node instanceof TensorsNode ? node.group.tensors.map(tensor => new TensorNode(node, node.model, tensor)) : [];
}

export function parentOf(node: TreeNode): TreeNode | undefined {
  return node instanceof ModelNode ? undefined : node.parent;
}

/** Stable across reloads of the tree, so that what is expanded stays so. */
export function idOf(node: TreeNode): string {
  if (node instanceof ModelNode) {
    return node.entry.folder;
  }
  const own =
    node instanceof BlockNode
      ? node.block.name
      : node instanceof GroupNode
        ? node.group
        : node instanceof LayerNode
          ? node.layer.name
          : node instanceof TensorsNode
            ? `(${node.group.name})`
            : node instanceof TensorNode
              ? node.tensor.name
              : node.problem.message;
  return `${idOf(node.parent)}\n${own}`;
}

export function modelOf(node: TreeNode): ModelNode {
  return node instanceof ModelNode ? node : modelOf(node.parent);
}

/** The layers that a row stands for: its own, or all below it. */
export function layersOf(node: TreeNode): readonly Layer[] {
  if (node instanceof LayerNode) {
    return [node.layer];
  }
  if (node instanceof GroupNode) {
    return node.layers;
  }
  if (node instanceof BlockNode) {
    return node.block.layers;
  }
  return node instanceof ModelNode ? (node.entry.model?.blocks.flatMap(block => block.layers) ?? []) : [];
}

/** Only a dense matrix can become an MPO. */
export function canTensorize(layer: Layer): boolean {
  return layer.state === 'dense' && layer.shape.length === 2;
}

/** The row of a layer, for `TreeView.reveal`. */
export function findLayer(entry: ModelEntry, name: string): LayerNode | undefined {
  for (const node of childrenOf(new ModelNode(entry))) {
    if (node instanceof BlockNode && node.block.layers.some(layer => layer.name === name)) {
      const rows = childrenOf(node).flatMap(child => (child instanceof GroupNode ? childrenOf(child) : [child]));
      return rows.find((row): row is LayerNode => row instanceof LayerNode && row.layer.name === name);
    }
  }
  return undefined;
}

function blockChildren(node: BlockNode): readonly TreeNode[] {
  const { block, model } = node;
  const groups = [...new Set(block.layers.map(layer => layer.group))];
  const layers =
    block.layers.length > GROUPED_ABOVE && groups.length > 1
      ? groups.map(group => new GroupNode(node, group))
      : block.layers.map(layer => new LayerNode(node, node, layer));
  if (block.other.length === 0) {
    return layers;
  }
  const [parameters, bytes] = [block.other.reduce((sum, tensor) => sum + tensor.parameters, 0), block.other.reduce((sum, tensor) => sum + tensor.bytes, 0)];
  return [...layers, new TensorsNode(node, model, { name: 'other', tensors: block.other, parameters, bytes })];
}

function tensorsOf(parent: ModelNode, model: Model, group: OtherGroup): TreeNode {
  const [only, ...more] = group.tensors;
  return only && more.length === 0 ? new TensorNode(parent, model, only, group.name) : new TensorsNode(parent, model, group);
}
