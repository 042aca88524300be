/** What stands below a healing in the Runs view. */
import * as vscode from 'vscode';
import { formatNumber, formatParameters, formatPercent } from '../runs/format.ts';
import { bestOf } from '../runs/healFold.ts';
import type { Run } from '../runs/run.ts';
import { describeData, healedPerplexity, perplexityOf } from './healText.ts';
import type { Detail } from './runDetails.ts';

/** From the journal while it works, from the result when it is done; nothing for runs of other kinds. */
export function healFigures({ request, result, summary: { heal } }: Run): readonly Detail[] {
  if (request?.kind !== 'heal') {
    return [];
  }
  const plan = heal?.plan?.plan;
  const last = heal?.steps.at(-1);
  const start = heal?.validations.find(({ step }) => step === 0);
  const best = bestOf(heal?.validations ?? []);
  const found: Detail[] = [];
  if (result?.kind === 'heal') {
    found.push({ ...detail('healed', vscode.l10n.t('Healed'), healedPerplexity(result), 'heart'), full: vscode.l10n.t('Perplexity on the text held back, before and after; the cores are those of step {0}.', result.best_step) });
  } else if (start && best) {
    found.push({ ...detail('healed', vscode.l10n.t('Best so far'), vscode.l10n.t('perplexity {0} → {1}, step {2}', perplexityOf(start.loss), perplexityOf(best.loss), best.step), 'heart'), full: vscode.l10n.t('On the text held back, before healing and at the best validation.') });
  }
  if (plan) {
    const steps = last ? vscode.l10n.t('{0} of {1}', last.step, plan.steps) : String(plan.steps);
    found.push(
      detail('steps', vscode.l10n.t('Steps'), vscode.l10n.t('{0} · {1} tokens each', steps, formatParameters(plan.tokens_per_step)), 'debug-step-over'),
      detail('trains', vscode.l10n.t('Trains'), vscode.l10n.t('{0} parameters ({1})', formatParameters(plan.trained), formatPercent(plan.trained / plan.parameters)), 'symbol-numeric'),
    );
  }
  if (last) {
    found.push(detail('speed', vscode.l10n.t('Speed'), vscode.l10n.t('{0} tokens/s', formatNumber(last.tokens_per_second)), 'dashboard'));
  }
  return [...found, detail('data', vscode.l10n.t('Data'), describeData(request.options.data), 'book')];
}

function detail(id: string, label: string, description: string, icon: string): Detail {
  return { id, label, description, icon, contextValue: 'detail' };
}
