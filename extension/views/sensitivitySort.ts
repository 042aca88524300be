/** The order of rows by sensitivity: most sensitive first, a block by its worst layer. */
import { type LayerSensitivity, worstOf } from '../profile/levels.ts';
import { BlockNode, GroupNode, LayerNode, layersOf, type TreeNode } from './modelNodes.ts';

/** Rows that are no layers and hold none stay where they are; those without a figure come after those with one. */
export function sortBySensitivity(nodes: readonly TreeNode[], found: ReadonlyMap<string, LayerSensitivity>): readonly TreeNode[] {
  const rise = (node: TreeNode) => worstOf(layersOf(node).map(layer => layer.name), found)?.rise ?? -Infinity;
  const ranked = nodes.filter(hasLayers).map(node => ({ node, rise: rise(node) }));
  ranked.sort((a, b) => (a.rise === b.rise ? 0 : b.rise - a.rise));
  const next = ranked.values();
  return nodes.map(node => (hasLayers(node) ? (next.next().value?.node ?? node) : node));
}

function hasLayers(node: TreeNode): boolean {
  return node instanceof BlockNode || node instanceof GroupNode || node instanceof LayerNode;
}
