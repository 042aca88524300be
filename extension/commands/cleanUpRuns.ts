/** “Clean Up Runs…”: runs that have ended, the largest first, with the disk space that each would free. */
import * as vscode from 'vscode';
import { deleteRun } from '../runs/create.ts';
import { formatBytes, formatDuration } from '../runs/format.ts';
import { canResume, isActive, type Run, stateText } from '../runs/run.ts';
import { folderSize } from '../runs/size.ts';
import type { RunStore } from '../runs/store.ts';
import { oneLine } from '../views/text.ts';

export interface EndedRun extends vscode.QuickPickItem {
  readonly run: Run;
  readonly bytes: number;
}

export async function cleanUpRuns(runs: RunStore): Promise<void> {
  await runs.refresh();
  const items = await endedRuns(runs.runs, Date.now());
  if (items.length === 0) {
    void vscode.window.showInformationMessage(vscode.l10n.t('There are no runs that have ended: nothing to clean up.'));
    return;
  }
  const chosen = await chooseRuns(items);
  if (chosen.length === 0) {
    return;
  }
  const lost = chosen.filter(({ run }) => canResume(run)).length;
  const action = vscode.l10n.t('Delete');
  const question = chosen.length === 1 ? vscode.l10n.t('Delete one run and free {0}?', sizeOf(chosen)) : vscode.l10n.t('Delete {0} runs and free {1}?', chosen.length, sizeOf(chosen));
  const detail = [
    vscode.l10n.t('Journals, logs and resume points go. Models that they made stay.'),
    ...(lost > 0 ? [vscode.l10n.t('{0} of them could have been resumed.', lost)] : []),
  ].join('\n\n');
  if ((await vscode.window.showWarningMessage(question, { modal: true, detail }, action)) !== action) {
    return;
  }
  const outcomes = await Promise.allSettled(chosen.map(({ run }) => deleteRun(run)));
  await runs.refresh();
  const failed = outcomes.find(outcome => outcome.status === 'rejected');
  if (failed) {
    throw failed.reason;
  }
}

/** @param now milliseconds. */
export async function endedRuns(runs: readonly Run[], now: number): Promise<readonly EndedRun[]> {
  const ended = runs.filter(run => !isActive(run.state));
  const items = await Promise.all(
    ended.map(async run => {
      const bytes = await folderSize(run.directory);
      const age = run.created === '' ? undefined : (now - Date.parse(run.created)) / 1000;
      const facts = [formatBytes(bytes), stateText(run.state), ...(age !== undefined && age >= 0 ? [vscode.l10n.t('{0} ago', formatDuration(age))] : [])];
      return { label: oneLine(run.title === '' ? run.id : run.title, 100).replaceAll('$(', '('), description: facts.join(' · '), run, bytes };
    }),
  );
  return items.sort((a, b) => b.bytes - a.bytes);
}

function sizeOf(items: readonly EndedRun[]): string {
  return formatBytes(items.reduce((sum, { bytes }) => sum + bytes, 0));
}

/** None where the user gave up. The placeholder tells what would be freed. */
async function chooseRuns(items: readonly EndedRun[]): Promise<readonly EndedRun[]> {
  const input = vscode.window.createQuickPick<EndedRun>();
  try {
    return await new Promise(resolve => {
      const tell = (chosen: readonly EndedRun[]) => {
        input.placeholder = chosen.length === 0 ? vscode.l10n.t('Runs that take {0} in all: choose which to delete', sizeOf(items)) : vscode.l10n.t('{0} chosen, which frees {1}', chosen.length, sizeOf(chosen));
      };
      Object.assign(input, { title: vscode.l10n.t('Clean Up Runs'), canSelectMany: true, matchOnDescription: true, ignoreFocusOut: true, items });
      tell([]);
      input.onDidChangeSelection(tell);
      input.onDidAccept(() => resolve(input.selectedItems));
      input.onDidHide(() => resolve([]));
      input.show();
    });
  } finally {
    input.dispose();
  }
}
