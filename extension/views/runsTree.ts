/** The Runs view: every run of the workspace, active ones first, then the newest. */
import * as vscode from 'vscode';
import { formatDuration } from '../runs/format.ts';
import { isActive, progressText, stateText, type Run, type RunState } from '../runs/run.ts';
import type { RunStore, RunsChange } from '../runs/store.ts';
import { type Detail, runDetails } from './runDetails.ts';
import { oneLine, shortPath, tooltip } from './text.ts';

/** A row for a run. It stays the same while the run changes, so that the view keeps what is expanded and selected. */
export class RunNode {
  run: Run;

  constructor(run: Run) {
    this.run = run;
  }
}

/** A figure below a run, or below another figure. */
export class DetailNode {
  readonly parent: RunNode | DetailNode;
  readonly detail: Detail;

  constructor(parent: RunNode | DetailNode, detail: Detail) {
    this.parent = parent;
    this.detail = detail;
  }
}

export type RunsNode = RunNode | DetailNode;

const ICONS: Record<RunState, readonly [icon: string, color?: string]> = {
  queued: ['clock', 'descriptionForeground'],
  running: ['sync~spin', 'charts.blue'],
  cancelling: ['sync~spin', 'descriptionForeground'],
  cancelled: ['circle-slash', 'descriptionForeground'],
  failed: ['error', 'errorForeground'],
  interrupted: ['debug-disconnect', 'list.warningForeground'],
  done: ['pass', 'testing.iconPassed'],
  invalid: ['question', 'list.warningForeground'],
};

export class RunsTree implements vscode.TreeDataProvider<RunsNode>, vscode.Disposable {
  readonly #changed = new vscode.EventEmitter<RunsNode | undefined>();
  readonly onDidChangeTreeData = this.#changed.event;
  readonly #store: RunStore;
  readonly #nodes = new Map<string, RunNode>();
  readonly #subscription: { dispose(): void };
  #shown: readonly string[] = [];

  constructor(store: RunStore) {
    this.#store = store;
    this.#subscription = store.onDidChange(change => this.#update(change));
  }

  dispose(): void {
    this.#subscription.dispose();
    this.#changed.dispose();
  }

  /** The node of a run, for `TreeView.reveal`. */
  nodeOf(directory: string): RunNode | undefined {
    const run = this.#store.get(directory);
    return run && this.#nodeFor(run);
  }

  getChildren(node?: RunsNode): RunsNode[] {
    if (!node) {
      this.#shown = this.#store.runs.map(run => run.directory);
      return this.#store.runs.map(run => this.#nodeFor(run));
    }
    const details = node instanceof RunNode ? runDetails(node.run, this.#store.runs) : (node.detail.children ?? []);
    return details.map(detail => new DetailNode(node, detail));
  }

  getParent(node: RunsNode): RunsNode | undefined {
    return node instanceof RunNode ? undefined : node.parent;
  }

  getTreeItem(node: RunsNode): vscode.TreeItem {
    return node instanceof RunNode ? runItem(node.run) : detailItem(node);
  }

  resolveTreeItem(item: vscode.TreeItem, node: RunsNode): vscode.TreeItem {
    item.tooltip = node instanceof RunNode ? runTooltip(node.run) : detailTooltip(node.detail);
    return item;
  }

  #nodeFor(run: Run): RunNode {
    const node = this.#nodes.get(run.directory) ?? new RunNode(run);
    node.run = run;
    this.#nodes.set(run.directory, node);
    return node;
  }

  #update(change: RunsChange): void {
    for (const { directory } of change.removed) {
      this.#nodes.delete(directory);
    }
    const order = this.#store.runs.map(run => run.directory);
    if (order.join('\n') !== this.#shown.join('\n')) {
      this.#changed.fire(undefined);
      return;
    }
    for (const { run } of change.changed) {
      this.#changed.fire(this.#nodeFor(run));
    }
  }
}

/** Characters of a title that leave room for how far the run is, in a view as wide as it is at first. */
const TITLE = 16;

function runItem(run: Run): vscode.TreeItem {
  const label = oneLine(run.title, isActive(run.state) ? TITLE : undefined);
  const item = new vscode.TreeItem(label, vscode.TreeItemCollapsibleState.Collapsed);
  const [icon, color] = ICONS[run.state];
  item.id = run.directory;
  item.description = describe(run);
  item.iconPath = new vscode.ThemeIcon(icon, color ? new vscode.ThemeColor(color) : undefined);
  item.contextValue = `run.${run.state}${run.request ? `.${run.request.kind}` : ''}`;
  item.accessibilityInformation = { label: `${oneLine(run.title)}, ${stateText(run.state)}, ${describe(run)}` };
  return item;
}

/** How far it is while it works; how it ended and when, after that. */
function describe(run: Run): string {
  const text = oneLine(progressText(run), 160);
  const age = run.state === 'done' && run.status ? vscode.l10n.t('{0} ago', formatDuration(secondsSince(run.status.updated))) : undefined;
  return age === undefined ? text : `${text} · ${age}`;
}

/** In whole units, because the row is not drawn again as time goes on. */
function secondsSince(time: string): number {
  const seconds = Math.max(0, (Date.now() - Date.parse(time)) / 1000);
  const unit = seconds < 3600 ? 60 : seconds < 86_400 ? 3600 : 86_400;
  return Math.max(60, Math.floor(seconds / unit) * unit);
}

function runTooltip(run: Run): vscode.MarkdownString {
  return tooltip(run.title, [
    [vscode.l10n.t('State'), stateText(run.state)],
    ...(run.status?.phase ? [[vscode.l10n.t('Phase'), run.status.phase] as const] : []),
    ...(run.created ? [[vscode.l10n.t('Asked for'), new Date(run.created).toLocaleString(vscode.env.language)] as const] : []),
    [vscode.l10n.t('Folder'), shortPath(run.directory)],
  ]);
}

function detailItem(node: DetailNode): vscode.TreeItem {
  const { detail } = node;
  const state = detail.children?.length ? expandedAtFirst(detail) : vscode.TreeItemCollapsibleState.None;
  const item = new vscode.TreeItem(detail.label, state);
  item.id = detailId(node);
  item.description = detail.description ?? '';
  item.iconPath = new vscode.ThemeIcon(detail.icon, detail.color ? new vscode.ThemeColor(detail.color) : undefined);
  item.contextValue = detail.contextValue;
  item.accessibilityInformation = { label: detail.description ? `${detail.label}, ${detail.description}` : detail.label };
  return item;
}

/** An error shows its remedy at once. */
function expandedAtFirst(detail: Detail): vscode.TreeItemCollapsibleState {
  return detail.contextValue === 'detail.error' ? vscode.TreeItemCollapsibleState.Expanded : vscode.TreeItemCollapsibleState.Collapsed;
}

function detailTooltip(detail: Detail): vscode.MarkdownString {
  const title = detail.description ? `${detail.label}: ${detail.description}` : detail.label;
  return detail.full === undefined || detail.full === title ? tooltip(title, []) : tooltip(title, detail.full.split('\n\n'));
}

function detailId(node: RunsNode): string {
  return node instanceof RunNode ? node.run.directory : `${detailId(node.parent)}#${node.detail.id}`;
}
