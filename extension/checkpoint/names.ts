/** Tensor and module names: the words of modelmap.json, numbered containers, and the order that a reader expects. */
import words from '../../engine/bondwise/modelmap.json' with { type: 'json' };
import type { LayerGroup, OtherGroup } from './types.ts';

const ATTENTION = new RegExp(words.attention);
const MLP = new RegExp(words.mlp);
const NORM = new RegExp(words.norm);
const EMBEDDING = new RegExp(words.embedding);
const HEAD = new RegExp(words.head);
const ROUTER = new RegExp(words.router);
const NUMBERED = /^([^\d.][^.]*(?:\.[^\d.][^.]*)*)\.(\d+)\./;

/** `model.layers.3.mlp.up_proj.weight` → `model.layers` and 3, of the outermost number; undefined without one. */
export function numbered(name: string): { readonly container: string; readonly index: number } | undefined {
  const [, container, index] = NUMBERED.exec(name) ?? [];
  return container === undefined || index === undefined ? undefined : { container, index: Number(index) };
}

/** Whether a module in a block (named relative to it) holds a matrix that is no layer: norms, embeddings, router gates. */
export function isNoLayer(module: string): boolean {
  return NORM.test(module) || EMBEDDING.test(module) || ROUTER.test(module);
}

/** Of a module named relative to its block. */
export function layerGroup(module: string): LayerGroup {
  return ATTENTION.test(module) ? 'attention' : MLP.test(module) ? 'mlp' : 'other';
}

/** Of a module outside the blocks. */
export function otherGroup(module: string): OtherGroup['name'] {
  return NORM.test(module) ? 'norm' : HEAD.test(module) ? 'head' : EMBEDDING.test(module) ? 'embedding' : 'other';
}

/** A key whose order puts `layers.10` behind `layers.9`, as `natural` in modelmap.py does. */
export function naturalKey(name: string): string {
  return name.replace(/\d+/g, (digits) => `\0${digits.padStart(20, '0')}`);
}
