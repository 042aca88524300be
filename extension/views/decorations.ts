/** Badge and colour of rows: χ for an MPO, Q for a quantized layer, a bar for how sensitive a dense one is. */
import * as vscode from 'vscode';
import type { Layer } from '../checkpoint/index.ts';
import { LEVELS, type Level } from '../profile/levels.ts';

const SCHEME = 'bondwise-state';

/** How sensitive a row is, and that in words. */
export interface SensitivityMark {
  readonly level: Level;
  readonly text: string;
}

/** Names a row and its state, so that the same row in another state is another resource. */
export function layerUri(folder: string, layer: Layer, mark?: SensitivityMark): vscode.Uri {
  return vscode.Uri.from({ scheme: SCHEME, path: `${slashed(folder)}/${layer.name}`, query: layer.state, fragment: fragmentOf(mark) });
}

export function blockUri(folder: string, block: string, mark?: SensitivityMark): vscode.Uri {
  return vscode.Uri.from({ scheme: SCHEME, path: `${slashed(folder)}/${block}`, query: 'block', fragment: fragmentOf(mark) });
}

export function modelUri(folder: string, state: Layer['state']): vscode.Uri {
  return vscode.Uri.from({ scheme: SCHEME, path: slashed(folder), query: state });
}

/** The height tells the level too: not by colour alone. */
const BARS: Record<Level, string> = { low: '▁', moderate: '▃', high: '▅', severe: '█' };

export const stateDecorations: vscode.FileDecorationProvider = {
  provideFileDecoration(uri) {
    if (uri.scheme !== SCHEME) {
      return undefined;
    }
    switch (uri.query) {
      case 'mpo':
        return new vscode.FileDecoration('χ', vscode.l10n.t('tensorized'), new vscode.ThemeColor('bondwise.tensorized'));
      case 'quantized':
        return new vscode.FileDecoration('Q', vscode.l10n.t('quantized'), new vscode.ThemeColor('charts.blue'));
      default: {
        const [name, ...words] = uri.fragment.split(' ');
        const level = LEVELS.find(each => each === name);
        return level && new vscode.FileDecoration(BARS[level], words.join(' '), new vscode.ThemeColor(`bondwise.sensitivity.${level}`));
      }
    }
  },
};

function fragmentOf(mark: SensitivityMark | undefined): string {
  return mark ? `${mark.level} ${mark.text}` : '';
}

function slashed(folder: string): string {
  const path = folder.replaceAll('\\', '/');
  return path.startsWith('/') ? path : `/${path}`;
}
