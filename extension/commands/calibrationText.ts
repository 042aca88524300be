/** The text that data-aware methods learn from: kept in a setting of the workspace, shown in the lists that ask for a method, changed from there. */
import path from 'node:path';
import * as vscode from 'vscode';
import { oneLine } from '../views/text.ts';
import { type Answer, askText, BACK, pickOne, type Position } from './quickInput.ts';

/** As the engine reads them. */
export const BUILTIN = 'builtin';
export const OWN = 'self';

interface TextItem extends vscode.QuickPickItem {
  /** As the engine reads it, or a question for it; neither on a separator. */
  readonly text?: string;
  readonly ask?: 'file' | 'hub';
}

/** The text that the user has chosen, in this workspace or for all; undefined where nobody did. A file is absolute. */
export function chosenText(scope: vscode.Uri): string | undefined {
  const found = vscode.workspace.getConfiguration('bondwise.calibration', scope).inspect<string>('data');
  const data = found?.workspaceFolderValue ?? found?.workspaceValue ?? found?.globalValue;
  if (data === undefined || data.trim() === '') {
    return undefined;
  }
  const folder = vscode.workspace.getWorkspaceFolder(scope) ?? vscode.workspace.workspaceFolders?.[0];
  return isFile(data) && !path.isAbsolute(data) && folder ? path.join(folder.uri.fsPath, data) : data;
}

/** What learns from nothing else: the built-in text, unless the user chose another. */
export function calibrationText(scope: vscode.Uri): string {
  return chosenText(scope) ?? BUILTIN;
}

export function describeText(text: string): string {
  return text === BUILTIN
    ? vscode.l10n.t('built-in text')
    : text === OWN
      ? vscode.l10n.t('the model’s own text')
      : isFile(text)
        ? oneLine(path.basename(text), 60)
        : vscode.l10n.t('data set {0}', oneLine(text, 60));
}

export interface MethodQuestion<T extends vscode.QuickPickItem> {
  readonly position: Position;
  readonly placeholder: string;
  /** Those for what is typed, where the list follows that. */
  readonly items: readonly T[] | ((typed: string) => readonly T[]);
  readonly isAnswer?: (item: T) => boolean;
  readonly active?: T;
  readonly scope: vscode.Uri;
  /** The text where the user has chosen none. */
  readonly otherwise: string;
}

/** One of a list of methods, with a line below it that says what all but the plain ones learn from; that line leads to other texts and back. */
export async function pickMethod<T extends vscode.QuickPickItem>({ position, placeholder, items, isAnswer, active, scope, otherwise }: MethodQuestion<T>): Promise<Answer<T>> {
  const itemsFor = (typed: string) => (typeof items === 'function' ? items(typed) : items);
  const follows = typeof items === 'function';
  for (;;) {
    const line = textLine(chosenText(scope) ?? otherwise);
    const text = [{ label: follows ? vscode.l10n.t('for those that learn from a text') : vscode.l10n.t('for data-aware and in sequence'), kind: vscode.QuickPickItemKind.Separator }, line];
    let offered: readonly T[] = [];
    const answer = await pickOne<vscode.QuickPickItem>({
      position,
      placeholder,
      items: typed => {
        offered = itemsFor(typed);
        return [...offered, ...(follows && typed.trim() !== '' ? [] : text)];
      },
      isAnswer: item => item === line || (item.kind !== vscode.QuickPickItemKind.Separator && (isAnswer?.(item as T) ?? true)),
      ...(active ? { active } : {}),
    });
    if (answer === undefined || answer === BACK) {
      return answer;
    }
    if (answer !== line) {
      return offered.find(item => item === answer || item.label === answer.label);
    }
    if ((await changeText(position, scope, otherwise)) === undefined) {
      return undefined;
    }
  }
}

function textLine(text: string): vscode.QuickPickItem {
  return { label: vscode.l10n.t('$(book) Text: {0}', describeText(text).replaceAll('$(', '(')), detail: vscode.l10n.t('Change it: a file, a hub data set, or the model’s own text.') };
}

export function textItems(current: string): readonly TextItem[] {
  const own = isFile(current) || (current !== BUILTIN && current !== OWN);
  const { Separator } = vscode.QuickPickItemKind;
  return [
    ...(own ? [{ label: describeText(current), description: vscode.l10n.t('as now'), text: current }] : []),
    { label: vscode.l10n.t('Built-in text'), detail: vscode.l10n.t('Documentation that comes with Python; no network needed.'), text: BUILTIN },
    { label: vscode.l10n.t('The model’s own text'), detail: vscode.l10n.t('Sampled from the model: needs no data, takes minutes longer.'), text: OWN },
    { label: vscode.l10n.t('your own'), kind: Separator },
    { label: vscode.l10n.t('File…'), detail: vscode.l10n.t('A .txt or .jsonl file like what the model will see: best.'), ask: 'file' },
    { label: vscode.l10n.t('Hub data set…'), detail: vscode.l10n.t('By its id; needs the network and the package datasets.'), ask: 'hub' },
  ];
}

/** Why an id will not do. */
export function dataSetMessage(id: string): vscode.InputBoxValidationMessage | undefined {
  return /^[\w.-]+(\/[\w.-]+)?(:[\w.-]+)?$/.test(id) && !isFile(id)
    ? undefined
    : { message: vscode.l10n.t('Type an id such as ORG/NAME or ORG/NAME:CONFIGURATION.'), severity: vscode.InputBoxValidationSeverity.Error };
}

async function changeText(position: Position, scope: vscode.Uri, otherwise: string): Promise<'changed' | typeof BACK | undefined> {
  const current = chosenText(scope) ?? otherwise;
  const items = textItems(current);
  const active = items.find(({ text }) => text === current);
  const answer = await pickOne({ position: { ...position, step: position.step + 1 }, placeholder: vscode.l10n.t('What data-aware methods learn from, in this workspace'), items: () => items, isAnswer: item => item.text !== undefined || item.ask !== undefined, ...(active ? { active } : {}) });
  if (answer === undefined || answer === BACK) {
    return answer;
  }
  const text = answer.ask === 'file' ? await askFile(scope) : answer.ask === 'hub' ? await askDataSet(position) : answer.text;
  if (text === undefined || text === BACK) {
    return BACK;
  }
  const { Global, Workspace } = vscode.ConfigurationTarget;
  await vscode.workspace.getConfiguration('bondwise.calibration', scope).update('data', text, vscode.workspace.workspaceFolders ? Workspace : Global);
  return 'changed';
}

/** A file of the workspace by its path in there, so that the setting means the same on other machines. */
async function askFile(scope: vscode.Uri): Promise<string | undefined> {
  const [file] = (await vscode.window.showOpenDialog({ filters: { [vscode.l10n.t('Text')]: ['txt', 'jsonl'] }, title: vscode.l10n.t('What data-aware methods learn from') })) ?? [];
  const folder = vscode.workspace.getWorkspaceFolder(scope) ?? vscode.workspace.workspaceFolders?.[0];
  const inside = file && folder ? path.relative(folder.uri.fsPath, file.fsPath) : '';
  return inside !== '' && !inside.startsWith('..') && !path.isAbsolute(inside) ? inside : file?.fsPath;
}

export async function askDataSet(position: Position): Promise<Answer<string>> {
  const prompt = vscode.l10n.t('Id of a Hugging Face data set');
  return askText({ position: { ...position, step: position.step + 1 }, value: '', prompt, placeholder: 'ORG/NAME', validate: text => Promise.resolve(dataSetMessage(text)) });
}

function isFile(text: string): boolean {
  return /\.(txt|jsonl)$/i.test(text);
}
