/** “Compare Two Runs”: what was asked and what came of it, side by side in a diff editor. */
import * as vscode from 'vscode';
import { type Run, stateText } from '../runs/run.ts';
import { RunTexts } from '../views/runText.ts';
import { oneLine } from '../views/text.ts';
import { askAll, pickOne, type Step, taken } from './quickInput.ts';

interface RunItem extends vscode.QuickPickItem {
  readonly run: Run;
}

/** @param selected the rows, as they were clicked; without two of them it is asked. */
export async function compareRuns(all: readonly Run[], selected: readonly Run[]): Promise<void> {
  const pair = selected.length === 2 ? selected : await askTwo(all, selected[0]);
  const [left, right] = pair.toSorted((a, b) => (a.created < b.created ? -1 : 1));
  if (left && right) {
    await vscode.commands.executeCommand('vscode.diff', RunTexts.uriOf(left), RunTexts.uriOf(right), `${oneLine(left.title, 40)} ↔ ${oneLine(right.title, 40)}`, { preview: true });
  }
}

async function askTwo(all: readonly Run[], known: Run | undefined): Promise<readonly Run[]> {
  if (all.length < 2) {
    throw new Error(vscode.l10n.t('There are not two runs to compare.'));
  }
  let [first, second]: (Run | undefined)[] = [known];
  const title = vscode.l10n.t('Compare Two Runs');
  const step = (placeholder: string, offered: () => readonly Run[], keep: (run: Run) => void): Step => async position =>
    taken(await pickOne({ position: { ...position, title }, placeholder, items: () => offered().map(runItem) }), ({ run }) => keep(run));
  const answered = await askAll([
    ...(known ? [] : [step(vscode.l10n.t('One run'), () => all, run => (first = run))]),
    step(vscode.l10n.t('The other run'), () => all.filter(run => run !== first && run.request?.kind === first?.request?.kind), run => (second = run)),
  ]);
  return answered && first && second ? [first, second] : [];
}

function runItem(run: Run): RunItem {
  const when = run.created === '' ? '' : new Date(run.created).toLocaleString(vscode.env.language);
  return { label: oneLine(run.title, 100).replaceAll('$(', '('), description: [stateText(run.state), when].filter(Boolean).join(' · '), run };
}
