/** The questions of “Benchmark Models…”. */
import path from 'node:path';
import * as vscode from 'vscode';
import type { Model } from '../checkpoint/index.ts';
import type { TaskList } from '../protocol/types.ts';
import { formatBytes, formatParameters } from '../runs/format.ts';
import { oneLine, shortPath } from '../views/text.ts';
import { askAll, askText, type Answer, BACK, OTHER, pickMany, pickOne, type Position, type Step, taken } from './quickInput.ts';

export const PARTS = ['perplexity', 'samples', 'footprint', 'speed', 'training'] as const;
export type Part = (typeof PARTS)[number];

export interface BenchmarkChoices {
  readonly models: readonly Model[];
  readonly tasks: readonly string[];
  /** Items of each task; undefined for all. */
  readonly limit: number | undefined;
  /** Undefined: as each task says. */
  readonly shots: number | undefined;
  /** The local folder of data sets; undefined for the hub. */
  readonly datasets: string | undefined;
  readonly parts: ReadonlySet<Part>;
  readonly chat: boolean;
}

export interface BenchmarkQuestions {
  readonly models: readonly Model[];
  readonly checked: readonly Model[];
  readonly tasks: Promise<TaskList>;
  readonly scope: vscode.Uri;
  /** The answers of an earlier run. */
  readonly proposed?: Partial<BenchmarkChoices>;
}

/** Those of the paper's second table. */
export const PAPER_TASKS: readonly string[] = ['mmlu', 'hellaswag', 'boolq', 'triviaqa', 'gsm8k'];
/** Others that many papers report. */
const USUAL_TASKS: readonly string[] = ['arc_easy', 'arc_challenge', 'piqa', 'winogrande', 'openbookqa', 'lambada_openai'];
const LIMITS: readonly number[] = [20, 50, 100, 500];

/** @returns undefined when the user gave up. */
export async function askBenchmark({ models, checked, tasks, scope, proposed }: BenchmarkQuestions): Promise<BenchmarkChoices | undefined> {
  const settings = vscode.workspace.getConfiguration('bondwise.benchmark', scope);
  let datasets = proposed ? proposed.datasets : datasetsFolder(scope);
  let chosen = checked.length > 0 ? checked : models;
  let names = proposed?.tasks ?? settings.get<readonly string[]>('tasks', PAPER_TASKS);
  let limit = proposed ? proposed.limit : 100;
  let shots = proposed?.shots;
  let parts: ReadonlySet<Part> = proposed?.parts ?? new Set(PARTS);
  const titled = (position: Pick<Position, 'step' | 'totalSteps'>): Position => ({ ...position, title: vscode.l10n.t('Benchmark') });
  const which: Step = async position => taken(await pickModels(models, chosen, titled(position)), answer => (chosen = answer));
  const by: Step = async position => taken(await pickTasks(await tasks, names, titled(position)), answer => (names = answer));
  const many: Step = async position => taken(await pickLimit(limit, titled(position)), answer => (limit = answer.limit));
  const before: Step = async position => taken(await askShots(shots, titled(position)), answer => (shots = answer.shots));
  const from: Step = async position => taken(await pickData(datasets, titled(position)), answer => (datasets = answer.datasets));
  const what: Step = async position => taken(await pickParts(parts, titled(position)), answer => (parts = answer));
  const answered = await askAll(() => [which, by, ...(names.length > 0 ? [many, before, from] : []), what]);
  return answered ? { models: chosen, tasks: names, limit, shots, datasets, parts, chat: proposed?.chat ?? settings.get<boolean>('chatTemplate', false) } : undefined;
}

interface Item<T> extends vscode.QuickPickItem {
  readonly value: T;
}

export function limitItems(): readonly Item<{ readonly limit: number | undefined }>[] {
  return [
    ...LIMITS.map(limit => ({ label: vscode.l10n.t('{0} items of each task', limit), description: noiseText(limit), value: { limit } })),
    { label: vscode.l10n.t('All items'), description: vscode.l10n.t('hours on a CPU'), value: { limit: undefined } },
  ];
}

/** The standard error of an accuracy of one half. */
function noiseText(items: number): string {
  return vscode.l10n.t('standard error up to {0} points', (50 / Math.sqrt(items)).toFixed(1));
}

/** What is chosen first, then the usual ones, then all that the harness has. */
export function taskItems({ tasks }: TaskList, chosen: readonly string[]): readonly (vscode.QuickPickItem & { readonly name?: string })[] {
  const kinds = new Map(tasks.map(({ name, kind }) => [name, kind]));
  const item = (name: string) => ({ label: name, description: kindText(kinds.get(name)), name });
  const head = (label: string) => ({ label, kind: vscode.QuickPickItemKind.Separator });
  const near = [...new Set([...chosen, ...PAPER_TASKS])];
  const usual = USUAL_TASKS.filter(name => !near.includes(name) && (kinds.size === 0 || kinds.has(name)));
  const rest = tasks.map(({ name }) => name).filter(name => !near.includes(name) && !usual.includes(name));
  return [...near.map(item), head(vscode.l10n.t('often reported')), ...usual.map(item), ...(rest.length > 0 ? [head(vscode.l10n.t('all others'))] : []), ...rest.map(item)];
}

function kindText(kind: string | undefined): string {
  return kind === 'group' ? vscode.l10n.t('group') : kind === 'tag' ? vscode.l10n.t('several tasks') : '';
}

/** Why a number of examples will not do. */
export function shotsMessage(text: string): vscode.InputBoxValidationMessage | undefined {
  return /^\d{0,2}$/.test(text) ? undefined : { message: vscode.l10n.t('Type a whole number from 0 to 99, or nothing.'), severity: vscode.InputBoxValidationSeverity.Error };
}

const NO_TASKS: vscode.QuickInputButton = { iconPath: new vscode.ThemeIcon('circle-slash'), tooltip: vscode.l10n.t('No Tasks') };
const ALL_MODELS: vscode.QuickInputButton = { iconPath: new vscode.ThemeIcon('checklist'), tooltip: vscode.l10n.t('All Models') };
const EVERYTHING: vscode.QuickInputButton = { iconPath: new vscode.ThemeIcon('checklist'), tooltip: vscode.l10n.t('Everything') };

async function pickModels(models: readonly Model[], checked: readonly Model[], position: Position): Promise<Answer<readonly Model[]>> {
  const items = models.map(model => ({
    label: oneLine(model.name, 80),
    description: `${formatParameters(model.parameters)} · ${formatBytes(model.bytes)}`,
    detail: shortPath(model.folder),
    model,
  }));
  const answer = await pickMany({
    position,
    items,
    placeholder: now => now.length === 1 ? vscode.l10n.t('1 model') : vscode.l10n.t('{0} models, the original among them where there is one', now.length),
    checked: items.filter(({ model }) => checked.includes(model)),
    other: ALL_MODELS,
  });
  if (answer === OTHER) {
    return models;
  }
  if (answer === undefined || answer === BACK) {
    return answer;
  }
  // None is no answer: the question stays.
  return answer.length === 0 ? pickModels(models, checked, position) : answer.map(({ model }) => model);
}

async function pickTasks(list: TaskList, chosen: readonly string[], position: Position): Promise<Answer<readonly string[]>> {
  const items = taskItems(list, chosen);
  const answer = await pickMany({
    position,
    items,
    placeholder: now => (now.length === 0 ? vscode.l10n.t('No tasks; type to search') : now.length === 1 ? vscode.l10n.t('1 task; type to search') : vscode.l10n.t('{0} tasks; type to search', now.length)),
    checked: items.filter(({ name }) => name !== undefined && chosen.includes(name)),
    other: NO_TASKS,
  });
  if (answer === OTHER) {
    return [];
  }
  return answer === undefined || answer === BACK ? answer : answer.flatMap(({ name }) => name ?? []);
}

async function pickLimit(limit: number | undefined, position: Position): Promise<Answer<{ readonly limit: number | undefined }>> {
  const items = limitItems();
  const active = items.find(({ value }) => value.limit === limit);
  const answer = await pickOne({ position, placeholder: vscode.l10n.t('How many items, chosen at random; of a group shared among its tasks'), items: () => items, ...(active && { active }) });
  return answer === undefined || answer === BACK ? answer : answer.value;
}

async function askShots(shots: number | undefined, position: Position): Promise<Answer<{ readonly shots: number | undefined }>> {
  const prompt = vscode.l10n.t('Solved examples before each item; nothing: as each task says.');
  const answer = await askText({ position, value: shots === undefined ? '' : String(shots), prompt, placeholder: vscode.l10n.t('as each task says'), validate: text => Promise.resolve(shotsMessage(text)) });
  return typeof answer === 'string' ? { shots: answer === '' ? undefined : Number(answer) } : answer;
}

async function pickData(datasets: string | undefined, position: Position): Promise<Answer<{ readonly datasets: string | undefined }>> {
  const hub = { label: vscode.l10n.t('From the hub'), detail: vscode.l10n.t('Downloaded where they are not in its cache yet.'), value: { datasets: undefined as string | undefined } };
  const own = datasets === undefined ? [] : [{ label: oneLine(path.basename(datasets), 80), detail: oneLine(datasets, 200), value: { datasets: datasets as string | undefined } }];
  const other = { label: vscode.l10n.t('Choose a folder…'), detail: vscode.l10n.t('With data sets under their hub ids, as ORG/NAME; nothing else is read then.'), value: undefined };
  const items: readonly (vscode.QuickPickItem & { readonly value: { readonly datasets: string | undefined } | undefined })[] = [...own, hub, other];
  for (;;) {
    const answer = await pickOne({ position, placeholder: vscode.l10n.t('Where the tasks’ data sets come from'), items: () => items });
    if (answer === undefined || answer === BACK) {
      return answer;
    }
    if (answer.value) {
      return answer.value;
    }
    const [picked] = (await vscode.window.showOpenDialog({ canSelectFiles: false, canSelectFolders: true, canSelectMany: false, openLabel: vscode.l10n.t('Take This Folder') })) ?? [];
    if (picked) {
      return { datasets: picked.fsPath };
    }
  }
}

async function pickParts(parts: ReadonlySet<Part>, position: Position): Promise<Answer<ReadonlySet<Part>>> {
  const items: readonly Item<Part>[] = [
    { label: vscode.l10n.t('Perplexity'), description: vscode.l10n.t('on the evaluation text of the settings'), value: 'perplexity' },
    { label: vscode.l10n.t('Sample text'), description: vscode.l10n.t('what each model writes'), value: 'samples' },
    { label: vscode.l10n.t('Memory and load time'), description: vscode.l10n.t('in a process of its own'), value: 'footprint' },
    { label: vscode.l10n.t('Speed'), description: vscode.l10n.t('forward, prefill and decode, by turns with the original'), value: 'speed' },
    { label: vscode.l10n.t('Training step'), description: vscode.l10n.t('takes four times the model’s memory; with Speed'), value: 'training' },
  ];
  const answer = await pickMany({
    position,
    items,
    placeholder: () => vscode.l10n.t('What else to measure; Enter starts the run'),
    checked: items.filter(({ value }) => parts.has(value)),
    other: EVERYTHING,
  });
  if (answer === OTHER) {
    return new Set(items.map(({ value }) => value));
  }
  return answer === undefined || answer === BACK ? answer : new Set(answer.map(({ value }) => value));
}

/** The folder of data sets in the settings, where one is named; it may be relative to the workspace folder. */
export function datasetsFolder(scope: vscode.Uri): string | undefined {
  const text = vscode.workspace.getConfiguration('bondwise.benchmark', scope).get<string>('datasets', '').trim();
  if (text === '') {
    return undefined;
  }
  const folder = vscode.workspace.getWorkspaceFolder(scope) ?? vscode.workspace.workspaceFolders?.[0];
  return path.resolve(folder?.uri.fsPath ?? '', text);
}
