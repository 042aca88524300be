/** What the tree says of a layer's sensitivity. */
import path from 'node:path';
import * as vscode from 'vscode';
import { isLoss, type LayerSensitivity, type Level } from '../profile/levels.ts';
import { formatPercent } from '../runs/format.ts';
import { formatMeasured } from './measured.ts';

/** `+0.42 nats`, `no loss`: of the row, so it is short. */
export function riseText({ rise, error = 0 }: LayerSensitivity): string {
  return isLoss(rise, error) ? vscode.l10n.t('{0} nats', `${rise > 0 ? '+' : '−'}${Number(Math.abs(rise).toPrecision(2))}`) : vscode.l10n.t('no loss');
}

export function levelText(level: Level): string {
  return {
    low: vscode.l10n.t('low sensitivity'),
    moderate: vscode.l10n.t('moderate sensitivity'),
    high: vscode.l10n.t('high sensitivity'),
    severe: vscode.l10n.t('severe sensitivity'),
  }[level];
}

/** Value, size and source, as a sentence. */
export function sensitivityText({ rise, error, keep, chi, source, level }: LayerSensitivity, file: string): string {
  const nats = formatMeasured(rise, error ?? 0);
  const size = vscode.l10n.t('{0} kept (χ {1})', formatPercent(keep), chi);
  const name = path.basename(file);
  return source === 'measured'
    ? vscode.l10n.t('{0}: the loss rises by {1} nats per token with {2}, measured ({3})', levelText(level), nats, size, name)
    : vscode.l10n.t('{0}: the loss rises by {1} nats per token with {2}, predicted ({3})', levelText(level), nats, size, name);
}
