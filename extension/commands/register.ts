/** Commands with one way to fail: the reason in words, what to do, and the output channel one click away. */
import * as vscode from 'vscode';
import { oneLine } from '../views/text.ts';

export type Handler = (...args: readonly unknown[]) => unknown;

/** Registers `bondwise.NAME` for each handler. */
export function register(log: vscode.LogOutputChannel, handlers: Readonly<Record<string, Handler>>): vscode.Disposable {
  const commands = Object.entries(handlers).map(([name, handler]) =>
    vscode.commands.registerCommand(`bondwise.${name}`, async (...args: readonly unknown[]) => {
      try {
        return await handler(...args);
      } catch (error) {
        if (error instanceof vscode.CancellationError) {
          return undefined;
        }
        log.error(`bondwise.${name}: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`);
        void showError(log, error);
        return undefined;
      }
    }),
  );
  return vscode.Disposable.from(...commands);
}

/** Shows why something failed and what to do about it. */
export async function showError(log: vscode.LogOutputChannel, error: unknown): Promise<void> {
  const details = vscode.l10n.t('Show Output');
  if ((await vscode.window.showErrorMessage(errorText(error), details)) === details) {
    log.show();
  }
}

/** The message and the remedy, of a thrown error as of the `ErrorInfo` of a run. */
export function errorText(error: unknown): string {
  const text = (key: string): string | undefined => {
    const value: unknown = typeof error === 'object' && error !== null ? Reflect.get(error, key) : undefined;
    return typeof value === 'string' ? value : undefined;
  };
  return oneLine(`${text('message') ?? String(error)} ${text('remedy') ?? ''}`, 600);
}
