/** What stands below a profile in the Runs view. */
import * as vscode from 'vscode';
import { formatNumber, formatPercent } from '../runs/format.ts';
import type { Run } from '../runs/run.ts';
import type { Detail } from './runDetails.ts';

/** From the journal while it works, from the result when it is done; nothing for runs of other kinds. */
export function profileFigures({ request, result, summary }: Run): readonly Detail[] {
  if (request?.kind !== 'profile') {
    return [];
  }
  const { profile } = summary;
  const made = result?.kind === 'profile' ? result : undefined;
  const sizes = profile ? profile.layers.length * profile.sizes.length : undefined;
  const cells = made?.cells ?? profile?.cells?.length ?? 0;
  const curves = made?.curves ?? profile?.curves?.length ?? 0;
  const correlation = made?.correlation ?? profile?.correlation;
  return [
    ...(profile ? [detail('covers', vscode.l10n.t('Layers'), vscode.l10n.t('{0} predicted of {1}', curves, profile.layers.length), 'layers')] : []),
    ...(request.options.mode !== 'spectral' && sizes !== undefined ? [detail('cells', vscode.l10n.t('Cells'), vscode.l10n.t('{0} measured of {1}', cells, sizes), 'table')] : []),
    ...baseline(made?.baseline ?? profile?.baseline ?? {}),
    ...(typeof correlation === 'number'
      ? [
          {
            ...detail('correlation', vscode.l10n.t('Predicted against measured'), vscode.l10n.t('rank correlation {0}', correlation.toFixed(2)), 'graph-line'),
            full: vscode.l10n.t('Spearman’s rank correlation of the predicted and the measured loss over all measured cells; 1 is the same order.'),
          },
        ]
      : []),
  ];
}

/** The original model's own values. */
function baseline(values: Readonly<Record<string, number>>): readonly Detail[] {
  const parts = Object.entries(values).map(([metric, value]) => `${metric} ${metric === 'agreement' ? formatPercent(value) : formatNumber(value)}`);
  return parts.length === 0 ? [] : [detail('baseline', vscode.l10n.t('Original'), parts.join(' · '), 'graph')];
}

function detail(id: string, label: string, description: string, icon: string): Detail {
  return { id, label, description, icon, contextValue: 'detail' };
}
