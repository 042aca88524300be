/** The Models view: model → blocks → layers, then what is outside the blocks. */
import * as vscode from 'vscode';
import { treeItem, treeTooltip } from './modelItems.ts';
import type { ModelList } from './modelList.ts';
import { childrenOf, findLayer, modelOf, ModelNode, parentOf, type TreeNode } from './modelNodes.ts';
import type { ProfileList } from './profileList.ts';
import { sortBySensitivity } from './sensitivitySort.ts';

/** Key in the workspace's state, and of the context that the menu asks. */
const SORTED = 'models.sortedBySensitivity';

export class ModelsTree implements vscode.TreeDataProvider<TreeNode>, vscode.Disposable {
  readonly #changed = new vscode.EventEmitter<undefined>();
  readonly onDidChangeTreeData = this.#changed.event;
  readonly #list: ModelList;
  readonly #profiles: ProfileList;
  readonly #state: vscode.Memento;
  readonly #subscriptions: readonly vscode.Disposable[];

  constructor(list: ModelList, profiles: ProfileList, state: vscode.Memento) {
    this.#list = list;
    this.#profiles = profiles;
    this.#state = state;
    const changed = () => this.#changed.fire(undefined);
    this.#subscriptions = [list.onDidChange(changed), profiles.onDidChange(changed)];
    void this.#tellOrder();
  }

  dispose(): void {
    vscode.Disposable.from(...this.#subscriptions).dispose();
    this.#changed.dispose();
  }

  /** Most sensitive first, instead of the order of the model. */
  get sortedBySensitivity(): boolean {
    return this.#state.get<boolean>(SORTED, false);
  }

  async sortBySensitivity(sorted: boolean): Promise<void> {
    await this.#state.update(SORTED, sorted || undefined);
    await this.#tellOrder();
    this.#changed.fire(undefined);
  }

  async getChildren(node?: TreeNode): Promise<TreeNode[]> {
    if (node) {
      const found = this.sortedBySensitivity ? this.#sensitivityOf(node) : undefined;
      return [...(found ? sortBySensitivity(childrenOf(node), found.layers) : childrenOf(node))];
    }
    await this.#list.ready();
    // The rows do not wait for what profiles say of them.
    void this.#profiles.ready();
    return this.#list.entries.map(entry => new ModelNode(entry));
  }

  getParent(node: TreeNode): TreeNode | undefined {
    return parentOf(node);
  }

  getTreeItem(node: TreeNode): vscode.TreeItem {
    return treeItem(node, this.#sensitivityOf(node));
  }

  resolveTreeItem(item: vscode.TreeItem, node: TreeNode): vscode.TreeItem {
    item.tooltip = treeTooltip(node, this.#sensitivityOf(node));
    return item;
  }

  /** The row of a model, or of a layer of it, for `TreeView.reveal`. */
  nodeOf(folder: string, layer?: string): TreeNode | undefined {
    const entry = this.#list.get(folder);
    if (!entry) {
      return undefined;
    }
    return layer === undefined ? new ModelNode(entry) : findLayer(entry, layer);
  }

  #sensitivityOf(node: TreeNode) {
    return this.#profiles.sensitivity(modelOf(node).entry.folder);
  }

  async #tellOrder(): Promise<void> {
    await vscode.commands.executeCommand('setContext', `bondwise.${SORTED}`, this.sortedBySensitivity);
  }
}
