/** Imported first by extension.ts: hands VS Code's translations to the code that does not know VS Code. */
import * as vscode from 'vscode';
import { useTranslations } from './text.ts';

if (vscode.l10n.bundle) {
  useTranslations(vscode.l10n.bundle, vscode.env.language);
}
