/** The layers that are selected, in the Models view and in the views of a model, every way, without an echo. */
import { setTimeout as delay } from 'node:timers/promises';
import * as vscode from 'vscode';
import { BlockNode, GroupNode, LayerNode, layersOf, modelOf, type TreeNode } from '../views/modelNodes.ts';
import type { ModelsTree } from '../views/modelsTree.ts';

/** What the user has selected, in the tree or in a view of the same model. */
export interface Selected {
  readonly folder: string;
  readonly layers: readonly string[];
  /** The view that it was selected in; undefined for the tree. */
  readonly by?: object;
}

/** How often a row is revealed that is not selected afterwards. */
const ATTEMPTS = 4;
/** Milliseconds that the window has to say that it is, and between looks at that. */
const SETTLE = 500;
const LOOK = 50;

export class LayerSelection implements vscode.Disposable {
  readonly #selected = new vscode.EventEmitter<Selected>();
  /** The user has selected layers, blocks or groups of one model. What `select` did to the tree is not told again. */
  readonly onDidSelect = this.#selected.event;
  readonly #tree: ModelsTree;
  readonly #view: vscode.TreeView<TreeNode>;
  readonly #subscription: vscode.Disposable;
  /** What the tree is to show next. */
  #wanted: Selected | undefined;
  /** What it shows, or is about to, because `select` said so. */
  #shown: Selected | undefined;
  #revealing = false;

  constructor(tree: ModelsTree, view: vscode.TreeView<TreeNode>) {
    this.#tree = tree;
    this.#view = view;
    this.#subscription = view.onDidChangeSelection(({ selection }) => this.#tell(selection));
  }

  dispose(): void {
    this.#subscription.dispose();
    this.#selected.dispose();
  }

  /**
   * Tells the other views, and shows layers in the tree, if the tree is in sight. The API selects one row, so the last layer is selected and the view says how many are
   * meant. Each selection scrolls the tree once, however often it is told; of those that come while the tree scrolls only the last is shown.
   * @param by the view in which the user selected them: it needs no telling.
   */
  async select(folder: string, layers: readonly string[], by: object): Promise<void> {
    this.#selected.fire({ folder, layers, by });
    this.#view.description = layers.length > 1 ? vscode.l10n.t('{0} layers selected', layers.length) : '';
    const isShown = this.#shown?.folder === folder && this.#shown.layers.join('\n') === layers.join('\n');
    if (!this.#view.visible || isShown) {
      return;
    }
    this.#shown = this.#wanted = { folder, layers };
    if (this.#revealing) {
      return;
    }
    this.#revealing = true;
    try {
      for (let next = this.#next(); next; next = this.#next()) {
        await this.#reveal(next);
      }
    } catch (error) {
      this.#shown = undefined;
      throw error;
    } finally {
      this.#revealing = false;
    }
  }

  /** While the tree is being read anew, as it is each second while a profile grows, a row may not be found, and nothing says so. */
  async #reveal(node: TreeNode): Promise<void> {
    for (let attempt = 0; attempt < ATTEMPTS; attempt += 1) {
      await this.#view.reveal(node, { select: true, focus: false });
      if (await this.#settles()) {
        return;
      }
    }
    this.#shown = undefined;
  }

  /** Whether the row that was revealed is selected now, or another one is wanted already. */
  async #settles(): Promise<boolean> {
    for (let waited = 0; waited < SETTLE; waited += LOOK) {
      if (this.#wanted || this.#isShown(this.#view.selection)) {
        return true;
      }
      await delay(LOOK);
    }
    return false;
  }

  #next(): TreeNode | undefined {
    const last = this.#wanted?.layers.at(-1);
    const node = this.#wanted && last !== undefined ? this.#tree.nodeOf(this.#wanted.folder, last) : undefined;
    this.#wanted = undefined;
    return node;
  }

  #tell(selection: readonly TreeNode[]): void {
    if (this.#revealing || this.#isShown(selection)) {
      return;
    }
    this.#shown = undefined;
    this.#view.description = '';
    const nodes = selection.filter(node => node instanceof LayerNode || node instanceof BlockNode || node instanceof GroupNode);
    const folders = new Set(nodes.map(node => modelOf(node).entry.folder));
    const [folder] = folders;
    if (folder !== undefined && folders.size === 1) {
      this.#selected.fire({ folder, layers: [...new Set(nodes.flatMap(layersOf).map(layer => layer.name))] });
    }
  }

  /** The window may tell of the row that was revealed after the promise of that. */
  #isShown([row, more]: readonly TreeNode[]): boolean {
    const last = this.#shown?.layers.at(-1);
    return row instanceof LayerNode && more === undefined && row.layer.name === last && row.model.folder === this.#shown?.folder;
  }
}
