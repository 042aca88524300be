/** Models that bring their own Python code: nothing runs it before the user has allowed that folder. */
import { readdir } from 'node:fs/promises';
import path from 'node:path';
import * as vscode from 'vscode';
import type { Model } from '../checkpoint/index.ts';
import { codeFolders } from '../runs/codeFolders.ts';
import type { Run } from '../runs/run.ts';
import { oneLine } from '../views/text.ts';

const ALLOWED = 'code.allowed';
/** So many are named, and opened, at a time. */
const SHOWN = 5;

type CodeModel = Pick<Model, 'folder' | 'needsCode' | 'name'>;

/** Whether a run may use the model. Asks once for each folder, and keeps the answer only when it is yes. */
export async function mayRunCode(context: vscode.ExtensionContext, model: CodeModel): Promise<boolean> {
  if (!model.needsCode) {
    return true;
  }
  const allowed = () => context.workspaceState.get<readonly string[]>(ALLOWED, []);
  if (allowed().includes(model.folder)) {
    return true;
  }
  if (!(await ask(model))) {
    return false;
  }
  await context.workspaceState.update(ALLOWED, [...allowed(), model.folder]);
  return true;
}

/**
 * Whether a run that is there may be started again. What it says of itself is no consent: a folder that came from elsewhere can bring runs, so
 * the user is asked for each folder whose code the run wants to have run, unless that folder was allowed in this workspace.
 */
export async function mayRunAgain(context: vscode.ExtensionContext, run: Pick<Run, 'directory' | 'request'>): Promise<boolean> {
  for (const folder of codeFolders(run)) {
    if (!(await mayRunCode(context, { folder, name: path.basename(folder), needsCode: true }))) {
      return false;
    }
  }
  return true;
}

/** The button that the Enter key presses only shows the code; then the question stays beside it. */
async function ask({ folder, name }: CodeModel): Promise<boolean> {
  const [read, allow] = [vscode.l10n.t('Read the Code'), vscode.l10n.t('Allow This Folder')];
  const files = (await readdir(folder)).filter(file => file.endsWith('.py')).sort();
  const named = [...files.slice(0, SHOWN).map(file => oneLine(file, 60)), ...(files.length > SHOWN ? [vscode.l10n.t('{0} more', files.length - SHOWN)] : [])];
  const question = vscode.l10n.t('{0} brings its own Python code. Run it?', oneLine(name, 60));
  const detail = [
    vscode.l10n.t('The code in {0} runs with your rights, also in later runs of this model. Allow it only when you trust where the folder comes from.', folder),
    ...(named.length > 0 ? [vscode.l10n.t('Python files in it: {0}', named.join(', '))] : []),
  ].join('\n\n');
  const buttons = files.length > 0 ? [read, allow] : [allow];
  const chosen = await vscode.window.showWarningMessage(question, { modal: true, detail }, ...buttons);
  if (chosen !== read) {
    return chosen === allow;
  }
  for (const file of files.slice(0, SHOWN)) {
    await vscode.window.showTextDocument(vscode.Uri.file(path.join(folder, file)), { preview: false });
  }
  return (await vscode.window.showWarningMessage(question, allow)) === allow;
}
