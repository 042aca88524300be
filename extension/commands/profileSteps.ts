/** The questions of “Profile Sensitivity…”. */
import path from 'node:path';
import * as vscode from 'vscode';
import { layerModes, maxBondDims, type Sites } from '../plan/choices.ts';
import { parseSizes, type ProfileSizes, sizesText } from '../profile/sizes.ts';
import type { ProfileOptions, Sensitivity } from '../protocol/types.ts';
import { formatParameters } from '../runs/format.ts';
import { oneLine } from '../views/text.ts';
import { BUILTIN } from './calibrationText.ts';
import { pickLayers } from './pickLayers.ts';
import { askAll, askText, type Answer, BACK, pickOne, type Position, type Step, taken } from './quickInput.ts';
import type { Chosen } from './tensorize.ts';
import { denseLayers } from './tensorizeSteps.ts';

export interface ProfileChoices {
  readonly chosen: Chosen;
  readonly mode: NonNullable<ProfileOptions['mode']>;
  readonly sizes: ProfileSizes;
  readonly metric: string;
  readonly data: string;
  readonly sequences: number;
  readonly length: number;
  readonly sites: Sites;
}

export interface ProfileQuestions {
  /** All layers that could be profiled, or those that were clicked. */
  readonly chosen: Chosen;
  readonly askLayers: boolean;
  /** A profile that there is: what it was made of is proposed again, so that the new figures fit it. */
  readonly defaults: Sensitivity | undefined;
  readonly length: number;
  /** The answers of an earlier run. */
  readonly proposed?: Partial<ProfileChoices>;
}

/** What is measured at when the user does not say. */
export const DEFAULT_SIZES: ProfileSizes = { keep: [0.75, 0.5, 0.3, 0.1] };
export const DEFAULT_SEQUENCES = 8;

/** @returns undefined when the user gave up. */
export async function askProfile({ chosen, askLayers, defaults, length, proposed = {} }: ProfileQuestions): Promise<ProfileChoices | undefined> {
  let layers = chosen;
  let { mode = 'measured', sizes = sizesOf(defaults), metric = defaults?.metric ?? 'perplexity', data = defaults?.data ?? BUILTIN, sequences = defaults?.sequences ?? DEFAULT_SEQUENCES } = proposed;
  const { sites = defaults?.sites ?? 'low-rank', length: tokens = defaults?.length ?? length } = proposed;
  const titled = (position: Pick<Position, 'step' | 'totalSteps'>): Position => ({ ...position, title: vscode.l10n.t('Profile {0}', oneLine(chosen.model.name, 60)) });
  const what: Step = async position => taken(await pickItem(titled(position), vscode.l10n.t('What to find out of each layer'), modeItems(), mode), answer => (mode = answer));
  const which: Step = async position => taken(await pickScope(chosen, titled(position)), answer => (layers = answer));
  const far: Step = async position => taken(await pickSizes(layers, sites, sizes, titled(position)), answer => (sizes = answer));
  const by: Step = async position => taken(await pickMetric(metric, titled(position)), answer => (metric = answer));
  const on: Step = async position => taken(await pickText(data, titled(position)), answer => (data = answer));
  const many: Step = async position => taken(await askSequences(sequences, tokens, mode, titled(position)), answer => (sequences = answer));
  const answered = await askAll(() => [what, ...(askLayers ? [which] : []), ...(mode === 'measured' ? [far, by] : []), on, many]);
  return answered ? { chosen: layers, mode, sizes, metric, data, sequences, length: tokens, sites } : undefined;
}

interface Item<T> extends vscode.QuickPickItem {
  /** Absent on what cannot be chosen. */
  readonly value?: T;
}

export function modeItems(): readonly Item<ProfileChoices['mode']>[] {
  return [
    {
      label: vscode.l10n.t('Predicted'),
      description: vscode.l10n.t('about a minute for a small model'),
      detail: vscode.l10n.t('The loss with each layer at every bond dimension, from one pass over the text.'),
      value: 'spectral',
    },
    {
      label: vscode.l10n.t('Measured'),
      description: vscode.l10n.t('longer; what is sure already is not measured again'),
      detail: vscode.l10n.t('Then the metric of the whole model too, with one layer replaced at a time.'),
      value: 'measured',
    },
  ];
}

/** Sizes to choose from; what is typed comes alone, with what is wrong about it. */
export function sizeItems({ layers }: Pick<Chosen, 'layers'>, sites: Sites, proposed: ProfileSizes, typed: string): readonly Item<ProfileSizes>[] {
  const cells = (sizes: ProfileSizes) => vscode.l10n.t('{0} cells', layers.length * ('keep' in sizes ? sizes.keep : sizes.chi).length);
  const item = (value: ProfileSizes, detail?: string): Item<ProfileSizes> => ({ label: sizesText(value), description: cells(value), ...(detail === undefined ? {} : { detail }), value });
  if (typed.trim() !== '') {
    const found = parseSizes(typed, Math.max(...denseLayers(layers).flatMap(layer => maxBondDims(layerModes(layer.out, layer.in, sites)))));
    return 'problem' in found
      ? [{ label: `$(error) ${found.problem.replaceAll('$(', '(')}`, detail: found.remedy, alwaysShow: true }]
      : [{ ...item(found), alwaysShow: true }];
  }
  const offered: readonly (readonly [ProfileSizes, string])[] = [
    [DEFAULT_SIZES, vscode.l10n.t('Four shares of each layer’s parameters, from mild to strong.')],
    [{ keep: [0.5, 0.2] }, vscode.l10n.t('Half the work.')],
    [{ keep: [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1] }, vscode.l10n.t('A fine grid, for smooth curves.')],
  ];
  const known = offered.find(([sizes]) => sizesText(sizes) === sizesText(proposed));
  return [...(known ? [] : [item(proposed, vscode.l10n.t('The sizes of the profile that there is.'))]), ...offered.map(([sizes, detail]) => item(sizes, detail))];
}

/** Metrics to choose from; what is typed is a task of the LM Evaluation Harness. */
export function metricItems(typed: string): readonly Item<string>[] {
  const task = typed.trim().replace(/^task:/, '');
  const items: readonly Item<string>[] = [
    { label: vscode.l10n.t('Perplexity'), detail: vscode.l10n.t('How surprised the model is by the text.'), value: 'perplexity' },
    { label: vscode.l10n.t('KL to the original'), detail: vscode.l10n.t('How far its next-token distribution moves.'), value: 'kl' },
    { label: vscode.l10n.t('Agreement with the original'), detail: vscode.l10n.t('How often it still ranks the same next token first.'), value: 'agreement' },
    { label: vscode.l10n.t('A task of the LM Evaluation Harness'), detail: vscode.l10n.t('Type its name, such as hellaswag.') },
  ];
  if (task === '' || items.some(({ label }) => label.toLowerCase().includes(task.toLowerCase()))) {
    return items;
  }
  return /^[\w.-]+$/.test(task)
    ? [{ label: vscode.l10n.t('Task {0}', task), detail: vscode.l10n.t('Of the LM Evaluation Harness: its score on 100 items.'), alwaysShow: true, value: `task:${task}` }]
    : [{ label: `$(error) ${vscode.l10n.t('“{0}” is not the name of a task.', oneLine(task.replaceAll('$(', '('), 60))}`, detail: vscode.l10n.t('Names are like hellaswag or arc_easy.'), alwaysShow: true }];
}

/** Why a number of sequences will not do. */
export function sequencesMessage(text: string): vscode.InputBoxValidationMessage | undefined {
  return /^[1-9]\d{0,6}$/.test(text) ? undefined : { message: vscode.l10n.t('Type a whole number of at least 1.'), severity: vscode.InputBoxValidationSeverity.Error };
}

async function pickItem<T>(position: Position, placeholder: string, items: readonly Item<T>[], proposed: T): Promise<Answer<T>> {
  const active = items.find(item => item.value === proposed);
  const answer = await pickOne<Item<T>>({ position, placeholder, items: () => items, isAnswer: item => item.value !== undefined, ...(active ? { active } : {}) });
  return answer === undefined || answer === BACK ? answer : answer.value;
}

async function pickScope(chosen: Chosen, position: Position): Promise<Answer<Chosen>> {
  const items: readonly Item<'all' | 'some'>[] = [
    { label: vscode.l10n.t('All {0} layers', chosen.layers.length), description: vscode.l10n.t('{0} parameters', formatParameters(chosen.layers.reduce((sum, layer) => sum + layer.parameters, 0))), value: 'all' },
    { label: vscode.l10n.t('Choose layers…'), detail: vscode.l10n.t('From a list, or by a pattern.'), value: 'some' },
  ];
  for (;;) {
    const answer = await pickItem(position, vscode.l10n.t('Which layers'), items, 'all');
    if (answer !== 'some') {
      return answer === 'all' ? chosen : answer;
    }
    // Back from the list leads here, not to the question before.
    const some = await pickLayers(chosen.model, { ...position, step: Math.max(2, position.step) });
    if (some !== BACK) {
      return some;
    }
  }
}

async function pickSizes(chosen: Chosen, sites: Sites, proposed: ProfileSizes, position: Position): Promise<Answer<ProfileSizes>> {
  const answer = await pickOne<Item<ProfileSizes>>({
    position,
    placeholder: vscode.l10n.t('Choose sizes, or type shares (75% 50% 30%) or bond dimensions (256 64 16)'),
    items: text => sizeItems(chosen, sites, proposed, text),
    isAnswer: item => item.value !== undefined,
  });
  return answer === undefined || answer === BACK ? answer : answer.value;
}

async function pickMetric(proposed: string, position: Position): Promise<Answer<string>> {
  const active = metricItems('').find(item => item.value === proposed);
  const answer = await pickOne<Item<string>>({
    position,
    placeholder: vscode.l10n.t('What to measure of the whole model; or type the name of a task'),
    items: metricItems,
    isAnswer: item => item.value !== undefined,
    ...(active ? { active } : {}),
  });
  return answer === undefined || answer === BACK ? answer : answer.value;
}

async function pickText(proposed: string, position: Position): Promise<Answer<string>> {
  const builtin: Item<string> = { label: vscode.l10n.t('Built-in text'), detail: vscode.l10n.t('Documentation that comes with Python; nothing is downloaded.'), value: BUILTIN };
  const own: Item<string> = { label: oneLine(path.basename(proposed), 80), detail: oneLine(proposed, 200), value: proposed };
  const file: Item<string> = { label: vscode.l10n.t('Choose a file…'), detail: vscode.l10n.t('.txt, or .jsonl with one text a line.'), value: '' };
  const items = proposed === BUILTIN ? [builtin, file] : [own, builtin, file];
  for (;;) {
    const answer = await pickItem(position, vscode.l10n.t('The text that the model reads'), items, proposed);
    if (answer !== '') {
      return answer;
    }
    const [picked] = (await vscode.window.showOpenDialog({ canSelectMany: false, openLabel: vscode.l10n.t('Take This Text'), filters: { [vscode.l10n.t('Text')]: ['txt', 'jsonl'] } })) ?? [];
    if (picked) {
      return picked.fsPath;
    }
  }
}

async function askSequences(proposed: number, tokens: number, mode: ProfileChoices['mode'], position: Position): Promise<Answer<number>> {
  const prompt =
    mode === 'measured'
      ? vscode.l10n.t('Sequences of {0} tokens, at most, for a cell; more make the figures surer. Enter starts the run.', tokens)
      : vscode.l10n.t('Sequences of {0} tokens for the calibration pass. Enter starts the run.', tokens);
  const answer = await askText({ position, value: String(proposed), prompt, validate: text => Promise.resolve(sequencesMessage(text)) });
  return typeof answer === 'string' ? Number(answer) : answer;
}

function sizesOf(profile: Sensitivity | undefined): ProfileSizes {
  if (!profile || profile.sizes.length === 0) {
    return DEFAULT_SIZES;
  }
  return profile.sizes_are === 'keep' ? { keep: profile.sizes } : { chi: profile.sizes };
}
