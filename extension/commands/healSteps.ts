/** The questions of “Heal Model…”. */
import { existsSync } from 'node:fs';
import path from 'node:path';
import * as vscode from 'vscode';
import type { Model } from '../checkpoint/index.ts';
import { budgetText, guessedSpeed, type HealBudget, leastMemory, type Load, type Machine, parseHealBudget, tokensIn } from '../plan/healing.ts';
import type { DeviceInfo, HealData } from '../protocol/types.ts';
import { formatBytes, formatDuration, formatParameters, formatPercent } from '../runs/format.ts';
import { describeSource } from '../views/healText.ts';
import { oneLine, shortPath } from '../views/text.ts';
import { askDataSet, BUILTIN, chosenText, OWN } from './calibrationText.ts';
import { type Answer, askAll, askText, BACK, OTHER, pickMany, pickOne, type Position, type Step, taken } from './quickInput.ts';
import { checkOutput, measureLook } from './tensorizeSteps.ts';

/** What the engine says of the machine. */
export interface Hardware extends Machine {
  readonly devices: readonly DeviceInfo[];
}

export interface HealChoices {
  readonly data: readonly [HealData, ...HealData[]];
  readonly distill: number;
  /** The original's folder; undefined where it is not needed. */
  readonly original: string | undefined;
  readonly device: string | undefined;
  readonly processes: number;
  readonly budget: HealBudget;
  readonly name: string;
  readonly measure: boolean;
}

export interface HealQuestion {
  readonly model: Model;
  readonly hardware: Hardware;
  /** Tokens a second of an earlier healing, brought to this model; undefined where there was none. */
  readonly speed: (load: Load) => number | undefined;
  /** The answers of an earlier run. */
  readonly proposed?: Partial<HealChoices>;
}

interface Item<T> extends vscode.QuickPickItem {
  /** Absent on what cannot be chosen. */
  readonly value?: T;
}

/** @returns undefined when the user gave up. */
export async function askHeal({ model, hardware, speed, proposed = {} }: HealQuestion): Promise<HealChoices | undefined> {
  const titled = (position: Pick<Position, 'step' | 'totalSteps'>): Position => ({ ...position, title: vscode.l10n.t('Heal {0}', oneLine(model.name, 60)) });
  const parent = path.dirname(model.folder);
  let sources: readonly string[] = proposed.data?.map(({ data }) => data) ?? [BUILTIN];
  let weights: readonly number[] = proposed.data?.map(({ weight = 1 }) => weight) ?? [];
  let { distill = 0.5, original = originalOf(model), budget, measure = true } = proposed;
  let where: DeviceChoice = { device: proposed.device, processes: proposed.processes ?? 1 };
  let name: string | undefined;
  const load = (): Load => ({ parameters: model.parameters, original: distill > 0 ? (model.lineage?.result?.original_parameters ?? 0) : 0 });
  const machine = (): Machine => ({ device: where.device ?? hardware.device, cores: hardware.cores });
  const what: Step = async position => taken(await pickData(vscode.Uri.file(model.folder), sources, titled(position)), answer => (sources = answer));
  const shares: Step = async position => taken(await askWeights(sources, weights, titled(position)), answer => (weights = answer));
  const towards: Step = async position =>
    taken(await pickLoss(distill, original, titled(position)), answer => {
      distill = answer.distill;
      original = answer.original ?? original;
    });
  const on: Step = async position => taken(await pickItem(titled(position), vscode.l10n.t('Where it trains'), deviceItems(hardware.devices), ({ value }) => value?.device === where.device && value?.processes === where.processes), answer => (where = answer));
  const long: Step = async position => {
    const rate = speed(load()) ?? guessedSpeed(load(), machine());
    const placeholder = vscode.l10n.t('How long: choose, or type minutes (45), tokens (2M tokens) or epochs (2 epochs)');
    return taken(await pickOne({ position: titled(position), placeholder, items: text => budgetItems(text, rate), ...(budget && { text: budgetText(budget) }), isAnswer: ({ value }) => value !== undefined }), ({ value }) => (budget = value));
  };
  const called: Step = async position => {
    const look = () => measureLook(parent, measure, needsText(model, load(), hardware, machine()));
    const answer = await askText({
      position: titled(position),
      value: name ?? healedName(model),
      prompt: '',
      validate: text => checkOutput(parent, text, model),
      toggle: {
        ...look(),
        press: () => {
          measure = !measure;
          return look();
        },
      },
    });
    return taken(answer, text => (name = text));
  };
  const answered = await askAll(() => [what, ...(sources.length > 1 ? [shares] : []), towards, ...(hardware.devices.length > 1 ? [on] : []), long, called]);
  const [first, ...more] = sources.map((data, i): HealData => (weights[i] === undefined || sources.length === 1 ? { data } : { data, weight: weights[i] }));
  return answered && first && budget && name !== undefined ? { data: [first, ...more], distill, original: distill > 0 ? original : undefined, ...where, budget, name, measure } : undefined;
}

// --- data --------------------------------------------------------------------------------------------------------------------------

interface SourceItem extends vscode.QuickPickItem {
  readonly source: string;
}

/** What can be checked: what comes with the engine, the text that data-aware methods learn from here, and what was added. */
export function sourceItems(scope: vscode.Uri, chosen: readonly string[]): readonly SourceItem[] {
  const known = [...new Set([BUILTIN, OWN, ...[chosenText(scope)].filter(text => text !== undefined), ...chosen])];
  return known.map(source => ({
    source,
    label: source === BUILTIN ? vscode.l10n.t('Built-in text') : source === OWN ? vscode.l10n.t('Text that the original writes') : oneLine(describeSource(source), 80),
    ...(source === BUILTIN ? { description: vscode.l10n.t('documentation that comes with Python; no network needed') } : source === OWN ? { description: vscode.l10n.t('needs no data; takes minutes before the first step') } : path.isAbsolute(source) ? { description: shortPath(path.dirname(source)) } : {}),
  }));
}

async function pickData(scope: vscode.Uri, chosen: readonly string[], position: Position): Promise<Answer<readonly string[]>> {
  const other: vscode.QuickInputButton = { iconPath: new vscode.ThemeIcon('add'), tooltip: vscode.l10n.t('Add a file or a hub data set') };
  let sources = chosen;
  for (;;) {
    const items = sourceItems(scope, sources);
    const placeholder = (checked: readonly SourceItem[]) =>
      checked.length === 0 ? vscode.l10n.t('Check what to train on; the + in the title adds files and hub data sets') : vscode.l10n.t('Trains on {0}; + adds files and hub data sets', checked.map(({ source }) => describeSource(source)).join(', '));
    const answer = await pickMany({ position, items, checked: items.filter(({ source }) => sources.includes(source)), placeholder, other });
    if (answer === undefined || answer === BACK) {
      return answer;
    }
    if (answer !== OTHER) {
      if (answer.length > 0) {
        return answer.map(({ source }) => source);
      }
      continue;
    }
    const added = await askSource(position);
    if (added === undefined) {
      return undefined;
    }
    sources = added === BACK ? sources : [...new Set([...sources.filter(source => source !== BUILTIN), ...added])];
  }
}

async function askSource(position: Position): Promise<Answer<readonly string[]>> {
  const items: readonly Item<'file' | 'hub'>[] = [
    { label: vscode.l10n.t('Files…'), detail: vscode.l10n.t('.txt, or .jsonl with text, messages, conversations or instructions: like what the model will see.'), value: 'file' },
    { label: vscode.l10n.t('Hub data set…'), detail: vscode.l10n.t('By its id, such as HuggingFaceH4/ultrachat_200k; needs the network and the package datasets.'), value: 'hub' },
  ];
  const kind = await pickItem({ ...position, step: position.step + 1 }, vscode.l10n.t('What to add'), items, () => false);
  if (kind === undefined || kind === BACK) {
    return kind;
  }
  if (kind === 'hub') {
    const id = await askDataSet(position);
    return id === undefined || id === BACK ? id : [id];
  }
  const files = await vscode.window.showOpenDialog({ canSelectMany: true, filters: { [vscode.l10n.t('Text')]: ['txt', 'jsonl'] }, title: vscode.l10n.t('What to train on') });
  return files === undefined || files.length === 0 ? BACK : files.map(({ fsPath }) => fsPath);
}

/** `2:1` for two sources. */
export function parseWeights(text: string, count: number): readonly number[] | undefined {
  const parts = text.split(/[:,\s]+/).filter(Boolean).map(Number);
  return parts.length === count && parts.every(part => Number.isFinite(part) && part > 0) ? parts : undefined;
}

async function askWeights(sources: readonly string[], weights: readonly number[], position: Position): Promise<Answer<readonly number[]>> {
  const { Error, Info } = vscode.InputBoxValidationSeverity;
  const names = sources.map(describeSource);
  const answer = await askText({
    position,
    value: (weights.length === sources.length ? weights : sources.map(() => 1)).join(':'),
    prompt: vscode.l10n.t('How many tokens of each: {0}', names.join(' : ')),
    validate: text => {
      const parsed = parseWeights(text, sources.length);
      const total = parsed?.reduce((sum, part) => sum + part, 0) ?? 1;
      return Promise.resolve(
        parsed
          ? { message: parsed.map((part, i) => `${formatPercent(part / total)} ${names[i] ?? ''}`).join(', '), severity: Info }
          : { message: vscode.l10n.t('Type {0} numbers above 0 with colons between them, such as {1}.', sources.length, sources.map((_, i) => (i === 0 ? 2 : 1)).join(':')), severity: Error },
      );
    },
  });
  return answer === undefined || answer === BACK ? answer : (parseWeights(answer, sources.length) ?? []);
}

// --- loss --------------------------------------------------------------------------------------------------------------------------

interface Towards {
  readonly distill: number;
  readonly original?: string;
}

export function lossItems(original: string | undefined): readonly Item<number>[] {
  const isThere = original !== undefined && existsSync(original);
  const name = original === undefined ? vscode.l10n.t('the original') : path.basename(original);
  const missing = isThere ? '' : vscode.l10n.t('not at {0}: you are asked where it is', original === undefined ? '?' : shortPath(original));
  return [
    { label: vscode.l10n.t('What the original says, and the text'), description: missing, detail: vscode.l10n.t('Half KL to {0}, half cross entropy.', name), value: 0.5 },
    { label: vscode.l10n.t('Only what the original says'), description: missing, detail: vscode.l10n.t('KL to {0} alone: the text is only what both are asked about.', name), value: 1 },
    { label: vscode.l10n.t('The text alone'), detail: vscode.l10n.t('Cross entropy: the original is not loaded, which saves memory and time.'), value: 0 },
  ];
}

async function pickLoss(distill: number, original: string | undefined, position: Position): Promise<Answer<Towards>> {
  for (;;) {
    const chosen = await pickItem(position, vscode.l10n.t('What it learns from'), lossItems(original), ({ value }) => value === distill);
    if (chosen === undefined || chosen === BACK || chosen === 0 || (original !== undefined && existsSync(original))) {
      return typeof chosen === 'number' ? { distill: chosen } : chosen;
    }
    const [folder] = (await vscode.window.showOpenDialog({ canSelectFiles: false, canSelectFolders: true, openLabel: vscode.l10n.t('This Is the Original'), title: vscode.l10n.t('Folder of the model that this one was made from') })) ?? [];
    if (folder) {
      return { distill: chosen, original: folder.fsPath };
    }
  }
}

export function originalOf({ folder, lineage }: Pick<Model, 'folder' | 'lineage'>): string | undefined {
  return lineage && path.resolve(folder, lineage.base.path);
}

// --- device, budget, name ----------------------------------------------------------------------------------------------------------

interface DeviceChoice {
  /** Undefined for what the setting says. */
  readonly device: string | undefined;
  readonly processes: number;
}

export function deviceItems(devices: readonly DeviceInfo[]): readonly Item<DeviceChoice>[] {
  const free = ({ memory, memory_total }: DeviceInfo) => vscode.l10n.t('{0} free of {1}', formatBytes(memory), formatBytes(memory_total));
  return [
    {
      label: vscode.l10n.t('All {0} GPUs', devices.length),
      description: formatBytes(devices.reduce((sum, { memory }) => sum + memory, 0)),
      detail: vscode.l10n.t('One process on each, by torchrun; the model and its optimizer are shared out.'),
      value: { device: 'cuda', processes: devices.length },
    },
    ...devices.map(info => ({ label: info.device, description: `${info.name} · ${free(info)}`, value: { device: info.device, processes: 1 } })),
  ];
}

const OFFERED: readonly HealBudget[] = [{ minutes: 5 }, { minutes: 20 }, { minutes: 60 }, { minutes: 240 }, { tokens: 1e6 }, { tokens: 1e7 }, { epochs: 1 }];

/** @param speed tokens a second, as far as it is known. */
export function budgetItems(typed: string, speed: number | undefined): readonly Item<HealBudget>[] {
  const own = parseHealBudget(typed);
  if (own && 'problem' in own) {
    return [{ label: `$(error) ${oneLine(own.problem, 80).replaceAll('$(', '(')}`, detail: own.remedy, alwaysShow: true }];
  }
  return own ? [{ ...budgetItem(own, speed), alwaysShow: true }] : OFFERED.map(budget => budgetItem(budget, speed));
}

function budgetItem(budget: HealBudget, speed: number | undefined): Item<HealBudget> {
  const tokens = tokensIn(budget, speed);
  const about =
    'epochs' in budget
      ? vscode.l10n.t('through all of the (first) data')
      : 'minutes' in budget
        ? tokens === undefined
          ? vscode.l10n.t('a step is timed when it starts')
          : vscode.l10n.t('about {0} tokens', formatParameters(Number(tokens.toPrecision(1))))
        : speed === undefined
          ? ''
          : vscode.l10n.t('about {0}', formatDuration(roughly(budget.tokens / speed)));
  return { label: budgetText(budget), ...(about === '' ? {} : { description: about }), value: budget };
}

/** In whole minutes or hours: an estimate is no surer. */
function roughly(seconds: number): number {
  const unit = seconds < 5400 ? 60 : 3600;
  return Math.max(unit, unit * Math.round(seconds / unit));
}

/** `small-healed`, then `small-healed-2`: the first that is not there yet. */
export function healedName({ name, folder }: Pick<Model, 'name' | 'folder'>, isThere: (folder: string) => boolean = existsSync): string {
  const stem = `${name.replace(/-healed(-\d+)?$/, '')}-healed`;
  for (let number = 1; ; number += 1) {
    const proposed = number === 1 ? stem : `${stem}-${number}`;
    if (!isThere(path.join(path.dirname(folder), proposed))) {
      return proposed;
    }
  }
}

function needsText(model: Model, load: Load, { devices }: Hardware, machine: Machine): string {
  const trained = trainedOf(model);
  const free = (devices.find(({ device }) => device === machine.device) ?? devices[0])?.memory;
  const memory = formatBytes(leastMemory(load, trained, machine));
  const room = free === undefined ? vscode.l10n.t('{0} of memory and what a sequence takes', memory) : vscode.l10n.t('{0} of memory and what a sequence takes; {1} are free', memory, formatBytes(free));
  return vscode.l10n.t('Trains {0} of {1} parameters, needs {2}.', formatParameters(trained), formatParameters(model.parameters), room);
}

/** Rank of what trains beside a layer in packed bits that has nothing there yet: the engine's. */
const CORRECTION = 16;

/** Parameters of what trains: the cores, and two thin matrices beside each layer in packed bits. */
export function trainedOf({ blocks }: Pick<Model, 'blocks'>): number {
  return blocks.flatMap(block => block.layers).reduce((sum, { state, parameters, scheme = '', shape }) => {
    if (state !== 'quantized') {
      return sum + (state === 'mpo' ? parameters : 0);
    }
    const packed = /^\d-bit(?: \+ rank (?<beside>\d+))?$|^rank (?<alone>\d+), \d+-bit$/.exec(scheme);
    const rank = Number(packed?.groups?.beside ?? packed?.groups?.alone ?? CORRECTION);
    return packed ? sum + Math.min(rank, ...shape) * shape.reduce((one, other) => one + other, 0) : sum;
  }, 0);
}

async function pickItem<T>(position: Position, placeholder: string, items: readonly Item<T>[], isProposed: (item: Item<T>) => boolean): Promise<Answer<T>> {
  const active = items.find(isProposed);
  const answer = await pickOne<Item<T>>({ position, placeholder, items: () => items, isAnswer: item => item.value !== undefined, ...(active ? { active } : {}) });
  return answer === undefined || answer === BACK ? answer : answer.value;
}
