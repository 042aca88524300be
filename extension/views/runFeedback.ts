/** What a window tells about runs as they go on: badge, status bar, output channel. Notifications are in commands/runs.ts. */
import * as vscode from 'vscode';
import { formatDuration } from '../runs/format.ts';
import { errorOf, fractionDone, isActive, type Run, stateText } from '../runs/run.ts';
import type { RunStore, RunsChange } from '../runs/store.ts';
import type { RunsNode } from './runsTree.ts';
import { oneLine, tooltip } from './text.ts';

/** The number of active runs on the view, and one status bar item while there are any. */
export function showActiveRuns(store: RunStore, view: vscode.TreeView<RunsNode>): vscode.Disposable {
  const item = vscode.window.createStatusBarItem('bondwise.runs', vscode.StatusBarAlignment.Left, 10);
  item.name = vscode.l10n.t('Bondwise Runs');
  item.command = 'bondwise.showRuns';
  const update = () => {
    const active = store.active;
    const first = active[0];
    view.badge = first ? { value: active.length, tooltip: activeCount(active.length) } : undefined;
    if (!first) {
      item.hide();
      return;
    }
    item.text = statusText(first, active.length);
    item.tooltip = tooltip(
      activeCount(active.length),
      active.map(run => [oneLine(run.title), run.status?.phase ?? stateText(run.state)] as const),
    );
    item.accessibilityInformation = { label: `Bondwise, ${item.text.replace(/\$\([^)]*\)/g, '')}`, role: 'button' };
    item.show();
  };
  update();
  return vscode.Disposable.from(item, store.onDidChange(update));
}

/** `$(sync~spin) Writing 43% · 2 min left (+1)`. */
function statusText(run: Run, count: number): string {
  const fraction = fractionDone(run);
  const eta = run.status?.progress?.eta;
  const parts = [
    [oneLine(run.state !== 'cancelling' && run.status?.phase ? run.status.phase : stateText(run.state), 40), fraction === undefined ? '' : `${Math.floor(fraction * 100)}%`].filter(Boolean).join(' '),
    ...(run.state === 'running' && typeof eta === 'number' ? [vscode.l10n.t('{0} left', formatDuration(eta))] : []),
  ];
  // A `$(…)` in a phase would become an icon.
  const text = parts.join(' · ').replaceAll('$(', '(');
  return `$(${run.state === 'queued' ? 'clock' : 'sync~spin'}) ${text}${count > 1 ? ` (+${count - 1})` : ''}`;
}

function activeCount(count: number): string {
  return count === 1 ? vscode.l10n.t('1 active run') : vscode.l10n.t('{0} active runs', count);
}

/** Writes what happens to runs into the output channel, one entry a change of state or phase, each warning and error once. */
export function logRuns(store: RunStore, log: vscode.LogOutputChannel): { dispose(): void } {
  return store.onDidChange(({ added, changed, removed }: RunsChange) => {
    for (const run of added) {
      log.info(`run ${run.id}: ${stateText(run.state)} · ${oneLine(run.title)}`);
    }
    for (const { run, before } of changed) {
      logChange(log, run, before);
    }
    for (const run of removed) {
      log.info(`run ${run.id}: removed`);
    }
  });
}

function logChange(log: vscode.LogOutputChannel, run: Run, before: Run): void {
  for (const warning of run.summary.warnings.slice(before.summary.warnings.length)) {
    log.warn(`run ${run.id}: ${warning}`);
  }
  if (run.status?.phase && run.status.phase !== before.status?.phase && isActive(run.state)) {
    log.info(`run ${run.id}: ${run.status.phase}`);
  }
  if (run.problem !== undefined && run.problem !== before.problem) {
    log.error(`run ${run.id}: ${run.problem}`);
  }
  if (run.state === before.state) {
    return;
  }
  const error = run.state === 'done' || isActive(run.state) ? undefined : errorOf(run);
  if (error) {
    log.error(`run ${run.id}: ${stateText(run.state)}. ${error.message}${error.remedy ? ` ${error.remedy}` : ''}`);
  } else {
    log.info(`run ${run.id}: ${stateText(run.state)}`);
  }
}
