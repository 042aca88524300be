/** Models that bring their own Python code: nothing runs it before the user has allowed that folder, as its code is now. */
import path from 'node:path';
import * as vscode from 'vscode';
import { codeHash, hasOtherModule, type Model, OWN_MODULE, pythonFiles } from '../checkpoint/index.ts';
import type { RunRequest } from '../protocol/types.ts';
import { codeFolders } from '../runs/codeFolders.ts';
import type { Run } from '../runs/run.ts';
import { oneLine } from '../views/text.ts';

/** Key in the workspace's state: the hash of the code of each folder that was allowed. */
const ALLOWED = 'code.allowed';
/** So many are named, and opened, at a time. */
const SHOWN = 5;

export type ConsentContext = Pick<vscode.ExtensionContext, 'workspaceState' | 'extensionPath'>;

/** The request with what the user allows of the model's code; undefined where that is refused. Most models need no answer. */
export async function withConsent(context: ConsentContext, model: CodeModel, request: RunRequest): Promise<RunRequest | undefined> {
  const consent = await codeConsent(context, model);
  if (consent === 'refused') {
    return undefined;
  }
  return consent === 'none' ? request : { ...request, allow_code: true, code: { ...request.code, [model.folder]: consent.hash } };
}

type CodeModel = Pick<Model, 'folder' | 'modelType' | 'needsCode'>;

/** `none`: the model brings no code that would have to run; else the hash of the code that may. */
export type Consent = 'none' | 'refused' | { readonly hash: string };

/** Whether the model's own code may run; asks where that is not known. */
export async function codeConsent(context: ConsentContext, model: CodeModel): Promise<Consent> {
  const isOther = await hasOtherModule(model, path.join(context.extensionPath, 'engine', 'bondwise'));
  if (!model.needsCode && !isOther) {
    return 'none';
  }
  const why = isOther ? [vscode.l10n.t('Its {0} is not the one of this version of Bondwise: it was changed, or made by another version.', OWN_MODULE)] : [];
  const hash = await allowedCode(context, model.folder, why);
  return hash === undefined ? 'refused' : { hash };
}

/**
 * Whether a run that is there may be started again. What it says of itself is no consent: a folder that came from elsewhere can bring runs, so
 * the user is asked for each folder whose code the run wants to have run, unless that folder was allowed in this workspace.
 */
export async function mayRunAgain(context: ConsentContext, run: Pick<Run, 'directory' | 'request'>): Promise<boolean> {
  for (const folder of codeFolders(run)) {
    if ((await allowedCode(context, folder, [])) === undefined) {
      return false;
    }
  }
  return true;
}

/**
 * Asks once for each state of a folder's code, and keeps the answer only when it is yes.
 * @returns the hash of what may run, which the engine holds the folder to; undefined where nothing may.
 */
async function allowedCode(context: ConsentContext, folder: string, why: readonly string[]): Promise<string | undefined> {
  const allowed = () => context.workspaceState.get<Readonly<Record<string, string>>>(ALLOWED, {});
  const before = allowed()[folder];
  const hash = await codeHash(folder);
  if (before === hash) {
    return hash;
  }
  const changed = before === undefined ? [] : [vscode.l10n.t('Its Python files have changed since you allowed them.')];
  if (!(await ask(folder, [...changed, ...why]))) {
    return undefined;
  }
  if ((await codeHash(folder)) !== hash) {
    throw new Error(vscode.l10n.t('The Python files in {0} changed while you were asked. Read them again, then allow them.', folder));
  }
  await context.workspaceState.update(ALLOWED, { ...allowed(), [folder]: hash });
  return hash;
}

/** The button that the Enter key presses only shows the code; then the question stays beside it. */
async function ask(folder: string, why: readonly string[]): Promise<boolean> {
  const [read, allow] = [vscode.l10n.t('Read the Code'), vscode.l10n.t('Allow This Folder')];
  const files = await pythonFiles(folder);
  const named = [...files.slice(0, SHOWN).map(file => oneLine(file, 60)), ...(files.length > SHOWN ? [vscode.l10n.t('{0} more', files.length - SHOWN)] : [])];
  const question = vscode.l10n.t('{0} brings its own Python code. Run it?', oneLine(path.basename(folder), 60));
  const detail = [
    ...why,
    vscode.l10n.t('The code in {0} runs with your rights, also in later runs, until a file of it changes. Allow it only when you trust where the folder comes from.', folder),
    ...(named.length > 0 ? [vscode.l10n.t('Python files in it: {0}', named.join(', '))] : []),
    vscode.l10n.t('A compressed model made from it carries this code, and you are asked about that folder in its turn.'),
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
