/** What stands below a run that does a plan: what was predicted of it. */
import * as vscode from 'vscode';
import type { Run } from '../runs/run.ts';
import { perplexityRange } from './measured.ts';
import type { Detail } from './runDetails.ts';

/** On the text that was measured, where it was: the profile's own text has another perplexity. */
export function planFigures({ request, result, summary }: Run): readonly Detail[] {
  const predicted = (result?.kind === 'tensorize' ? result.predicted : undefined) ?? (request?.kind === 'tensorize' ? request.options.predicted : undefined);
  if (!predicted) {
    return [];
  }
  const original = (result?.kind === 'tensorize' ? result.original : undefined) ?? summary.evaluations.original;
  const { loss, loss_error, perplexity } = predicted;
  const base = original?.perplexity ?? (typeof perplexity === 'number' ? perplexity / Math.exp(loss) : undefined);
  const description = base === undefined ? vscode.l10n.t('perplexity × {0}', perplexityRange(1, loss, loss_error)) : vscode.l10n.t('perplexity {0}', perplexityRange(base, loss, loss_error));
  return [
    {
      id: 'predicted',
      label: vscode.l10n.t('Predicted'),
      description,
      icon: 'telescope',
      full: original
        ? vscode.l10n.t('By the plan, on the text that was measured; in brackets, one standard error to either side.')
        : vscode.l10n.t('By the plan, on the profile’s text; in brackets, one standard error to either side.'),
      contextValue: 'detail',
    },
  ];
}
