/** The layers selected in the Models view, both ways, without an echo. */
import * as vscode from 'vscode';
import { BlockNode, GroupNode, LayerNode, layersOf, modelOf, type TreeNode } from '../views/modelNodes.ts';
import type { ModelsTree } from '../views/modelsTree.ts';

/** What the user has selected in the tree. */
export interface TreeSelection {
  readonly folder: string;
  readonly layers: readonly string[];
}

/** The API selects one row at a time, and each costs a round trip to the window: of more layers than these only the last is shown. */
const REVEALED = 8;

export class LayerSelection implements vscode.Disposable {
  readonly #selected = new vscode.EventEmitter<TreeSelection>();
  /** The user has selected layers, blocks or groups of one model. What `select` did is not told. */
  readonly onDidSelect = this.#selected.event;
  readonly #tree: ModelsTree;
  readonly #view: vscode.TreeView<TreeNode>;
  readonly #subscription: vscode.Disposable;
  #revealing = 0;

  constructor(tree: ModelsTree, view: vscode.TreeView<TreeNode>) {
    this.#tree = tree;
    this.#view = view;
    this.#subscription = view.onDidChangeSelection(({ selection }) => this.#tell(selection));
  }

  dispose(): void {
    this.#subscription.dispose();
    this.#selected.dispose();
  }

  /** Shows layers in the tree, if the tree is in sight; the last of them is selected, and the view says how many are meant. */
  async select(folder: string, layers: readonly string[]): Promise<void> {
    this.#view.description = layers.length > 1 ? vscode.l10n.t('{0} layers selected', layers.length) : '';
    if (!this.#view.visible) {
      return;
    }
    this.#revealing += 1;
    try {
      for (const layer of layers.slice(layers.length > REVEALED ? -1 : 0)) {
        const node = this.#tree.nodeOf(folder, layer);
        if (node) {
          await this.#view.reveal(node, { select: true, focus: false });
        }
      }
    } finally {
      this.#revealing -= 1;
    }
  }

  #tell(selection: readonly TreeNode[]): void {
    if (this.#revealing > 0) {
      return;
    }
    this.#view.description = '';
    const nodes = selection.filter(node => node instanceof LayerNode || node instanceof BlockNode || node instanceof GroupNode);
    const folders = new Set(nodes.map(node => modelOf(node).entry.folder));
    const [folder] = folders;
    if (folder !== undefined && folders.size === 1) {
      this.#selected.fire({ folder, layers: [...new Set(nodes.flatMap(layersOf).map(layer => layer.name))] });
    }
  }
}
