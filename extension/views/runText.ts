/** A run as a text of lines that a diff can set side by side: what was asked, and what came of it. */
import * as vscode from 'vscode';
import { requestFacts } from '../runs/requestFacts.ts';
import { type Run, stateText } from '../runs/run.ts';
import { type Detail, figureDetails } from './runDetails.ts';
import { oneLine } from './text.ts';

const SCHEME = 'bondwise-run';

/** The same rows in the same order for every run of a kind, so that only what differs is marked. */
export function runText(run: Run): string {
  const request = run.request ? requestFacts(run.request).map(([key, value]) => `${key}: ${oneLine(value)}`) : [];
  return [
    `# ${oneLine(run.title)}`,
    stateText(run.state),
    '',
    `## ${vscode.l10n.t('Request')}`,
    ...request,
    '',
    `## ${vscode.l10n.t('Figures')}`,
    ...figureDetails(run).flatMap(detail => lines(detail, '')),
    '',
  ].join('\n');
}

function lines({ label, description = '', children = [] }: Detail, indent: string): readonly string[] {
  return [`${indent}${label}${description === '' ? '' : `: ${description}`}`, ...children.flatMap(child => lines(child, `${indent}  `))];
}

/** The texts of runs as documents, made anew where a run has gone on. */
export class RunTexts implements vscode.Disposable {
  readonly #changed = new vscode.EventEmitter<vscode.Uri>();
  readonly #subscriptions: readonly { dispose(): void }[];

  constructor(runs: { get(directory: string): Run | undefined; onDidChange(listener: (change: { readonly changed: readonly { readonly run: Run }[] }) => void): { dispose(): void } }) {
    this.#subscriptions = [
      vscode.workspace.registerTextDocumentContentProvider(SCHEME, {
        onDidChange: this.#changed.event,
        provideTextDocumentContent: uri => {
          const run = runs.get(uri.query);
          return run ? runText(run) : vscode.l10n.t('There is no run in {0} any more. It was deleted or moved, or its folder is not one of this workspace.', uri.query);
        },
      }),
      runs.onDidChange(({ changed }) => changed.forEach(({ run }) => this.#changed.fire(RunTexts.uriOf(run)))),
      this.#changed,
    ];
  }

  static uriOf({ id, directory }: Pick<Run, 'id' | 'directory'>): vscode.Uri {
    return vscode.Uri.from({ scheme: SCHEME, path: `/${id}`, query: directory });
  }

  dispose(): void {
    this.#subscriptions.forEach(subscription => subscription.dispose());
  }
}
