/** “Run Plan”: what a plan file says becomes a run, or one for each of its steps, after it was checked against the model and shown in figures. */
import { access } from 'node:fs/promises';
import path from 'node:path';
import * as vscode from 'vscode';
import { type Layer, type Model, openModel, problemOf } from '../checkpoint/index.ts';
import { estimate } from '../plan/choices.ts';
import { budgetText, type HealBudget } from '../plan/healing.ts';
import { Plan, PLAN_SUFFIX, type PlanContent, PlanError } from '../plan/planFile.ts';
import { backendOf, storedBytes } from '../plan/schemes.ts';
import type { HealOptions, PlanFile, RunRequest } from '../protocol/types.ts';
import { formatBytes, formatParameters, formatPercent } from '../runs/format.ts';
import type { ModelList } from '../views/modelList.ts';
import { describeData } from '../views/healText.ts';
import { perplexityRange } from '../views/measured.ts';
import { shortPath } from '../views/text.ts';
import { withConsent } from './consent.ts';
import { floatLayers } from './quantizeSteps.ts';
import { requestBase, runRootFor, startRun } from './startRun.ts';
import type { TensorizeParts } from './tensorize.ts';
import { checkOutput, denseLayers } from './tensorizeSteps.ts';

/** A plan that can be run. */
export interface Ready {
  readonly request: RunRequest;
  /** The second step, which waits for the first. */
  readonly heal?: RunRequest;
  readonly model: Model;
  /** What will be done, in sentences. */
  readonly lines: readonly string[];
}

/** @param args of a menu: the file; from the palette the one in the editor. */
export async function runPlan(parts: TensorizeParts, [clicked]: readonly unknown[]): Promise<void> {
  const uri = clicked instanceof vscode.Uri ? clicked : vscode.window.activeTextEditor?.document.uri;
  if (!uri?.fsPath.endsWith(PLAN_SUFFIX)) {
    throw new Error(vscode.l10n.t('Open a plan (a file that ends in {0}), then run it.', PLAN_SUFFIX));
  }
  const document = await vscode.workspace.openTextDocument(uri);
  if (document.isDirty && !(await document.save())) {
    throw new Error(vscode.l10n.t('{0} could not be saved. Check that it may be written.', path.basename(uri.fsPath)));
  }
  let ready: Ready;
  try {
    ready = await readyPlan(document.getText(), uri.fsPath, parts.models);
  } catch (error) {
    if (error instanceof PlanError) {
      const place = document.positionAt(error.offset);
      await vscode.window.showTextDocument(document, { selection: new vscode.Range(place, place), preview: false });
    }
    throw error;
  }
  const run = vscode.l10n.t('Run');
  const title = vscode.l10n.t('Run {0}?', path.basename(uri.fsPath));
  if ((await vscode.window.showInformationMessage(title, { modal: true, detail: ready.lines.join('\n\n') }, run)) !== run) {
    return;
  }
  const directory = await startPlan(parts, ready);
  if (directory !== undefined) {
    await parts.showRun(directory);
  }
}

/**
 * Starts the runs of a plan's steps, each of which waits for the one before, so that they go on though this window be closed.
 * @returns the first run's directory; undefined where the user did not allow what it needs.
 */
export async function startPlan(parts: Omit<TensorizeParts, 'showRun'>, { model, request, heal }: Ready): Promise<string | undefined> {
  const allowed = await withConsent(parts.context, model, request);
  const root = runRootFor(model.folder, parts.storage);
  const directory = allowed && (await startRun(parts.engine, parts.runs, root, allowed));
  if (allowed && directory !== undefined && heal) {
    // The code that it brings is that of the model that was asked about.
    await startRun(parts.engine, parts.runs, root, { ...heal, allow_code: allowed.allow_code ?? false, code: allowed.code ?? {}, after: `../${path.basename(directory)}` });
  }
  return directory;
}

/**
 * Checks a plan: against the schema, against its model, and against what lies where it wants to write.
 * @throws PlanError, naming file and line.
 */
export async function readyPlan(text: string, file: string, models: ModelList): Promise<Ready> {
  const plan = new Plan(text, path.basename(file));
  const at = (relative: string) => path.resolve(path.dirname(file), relative);
  const folder = at(plan.file.model);
  const model = await modelAt(plan, folder, models);
  const quantizes = plan.file.quantize.length > 0;
  const layers = quantizes ? plan.quantizedIn(model) : plan.layersIn(model);
  const output = at(plan.file.output);
  const taken = await checkOutput(path.dirname(output), path.basename(output), model);
  if (taken?.severity === vscode.InputBoxValidationSeverity.Error) {
    throw plan.error(['output'], taken.message, vscode.l10n.t('Name another folder.'));
  }
  const { predicted, refit, tensorize, quantize } = plan.file;
  const evaluate = await withText(plan, 'evaluate', at);
  const calibration = await withText(plan, 'calibration', at);
  const [first, ...more] = tensorize;
  const base = { ...requestBase(vscode.l10n.t('Run plan {0}', path.basename(file)), vscode.Uri.file(folder)), model: folder };
  const common = { output, evaluate, ...(calibration && { calibration }), ...(predicted && { predicted }) };
  const request: RunRequest = first
    ? { kind: 'tensorize', ...base, options: { tensorize: [first, ...more], ...common, ...(refit && { refit }) } }
    : { kind: 'quantize', ...base, options: { quantize: [...quantize], ...common } };
  const heal = await healStep(plan, request, file, model, at);
  return {
    request,
    ...(heal && { heal: heal.request }),
    model,
    lines: [...describePlan({ ...plan.file, output }, model, layers), ...(taken ? [taken.message] : []), ...(heal?.lines ?? [])],
  };
}

/**
 * The run that heals what the first one makes; undefined where the plan has no such section.
 * @throws PlanError for a file that is not there, and for a folder that cannot be written.
 */
async function healStep(plan: Plan, before: RunRequest, file: string, model: Model, at: (relative: string) => string): Promise<{ readonly request: RunRequest; readonly lines: readonly string[] } | undefined> {
  const { heal } = plan.file;
  if (!heal || (before.kind !== 'tensorize' && before.kind !== 'quantize')) {
    return undefined;
  }
  const { output: named, teacher, data = [{ data: 'builtin' }], ...options } = heal;
  const made = before.options.output;
  const output = named ? at(named) : `${made}-healed`;
  const taken = await checkOutput(path.dirname(output), path.basename(output), { folder: model.folder });
  if (taken?.severity === vscode.InputBoxValidationSeverity.Error || output === made) {
    throw plan.error(['heal', 'output'], output === made ? vscode.l10n.t('the healed model would replace the compressed one.') : (taken?.message ?? ''), vscode.l10n.t('Name another folder.'));
  }
  const sources = await Promise.all(data.map(async (source, i) => ({ ...source, data: await existingText(plan, ['heal', 'data', i, 'data'], source.data, at) })));
  const [first, ...more] = sources;
  const request: RunRequest = {
    kind: 'heal',
    ...requestBase(vscode.l10n.t('Run plan {0}: heal', path.basename(file)), vscode.Uri.file(model.folder)),
    model: made,
    options: { ...options, ...(first && { data: [first, ...more] }), ...(teacher ? { teacher: at(teacher) } : {}), output, evaluate: before.options.evaluate ?? null },
  };
  const how = budgetText(budgetOf(heal));
  const lines = [vscode.l10n.t('Then it is healed for {0} on {1}; that model goes to {2}.', how, describeData(sources), shortPath(output)), ...(taken ? [taken.message] : [])];
  return { request, lines };
}

function budgetOf({ minutes, tokens, epochs }: Pick<HealOptions, 'minutes' | 'tokens' | 'epochs'>): HealBudget {
  return typeof minutes === 'number' ? { minutes } : typeof tokens === 'number' ? { tokens } : { epochs: epochs ?? 1 };
}

/**
 * A section of a plan that names a text, or several, whose files are absolute then; null where the plan has no such section.
 * @throws PlanError for a file that is not there.
 */
async function withText<K extends 'evaluate' | 'calibration'>(plan: Plan, key: K, at: (relative: string) => string): Promise<NonNullable<PlanFile[K]> | null> {
  const section = plan.file[key];
  if (!section) {
    return null;
  }
  const found = async <T extends { readonly data?: string }>(text: T, place: readonly (string | number)[]): Promise<T> =>
    text.data === undefined ? text : { ...text, data: await existingText(plan, [...place, 'data'], text.data, at) };
  const also = 'also' in section ? { also: await Promise.all(section.also.map((text, i) => found(text, [key, 'also', i]))) } : {};
  return { ...(await found(section, [key])), ...also };
}

/** A text as the engine reads it: a file by its absolute path. @throws PlanError for one that is not there. */
async function existingText(plan: Plan, key: readonly (string | number)[], text: string, at: (relative: string) => string): Promise<string> {
  if (!/\.(txt|jsonl)$/.test(text)) {
    return text;
  }
  const file = at(text);
  await access(file).catch(() => {
    throw plan.error([...key], vscode.l10n.t('there is no file {0}.', file), vscode.l10n.t('Name a text, or “builtin”.'));
  });
  return file;
}

/** What the rules match and make of the model, and what was predicted; the plan's output is absolute here. */
export function describePlan({ tensorize, quantize, predicted, evaluate, output }: PlanContent, model: Model, layers: readonly (readonly Layer[])[]): readonly string[] {
  const counts = layers.map(own => own.length);
  const matched = counts.reduce((total, count) => total + count, 0);
  const all = model.blocks.reduce((total, block) => total + block.layers.length, 0);
  const quantizes = quantize.length > 0;
  const patterns = (quantizes ? quantize : tensorize).flatMap((rule, i) => ((counts[i] ?? 0) > 1 ? [`${rule.layers.join(', ')}: ${vscode.l10n.t('{0} layers', counts[i] ?? 0)}`] : []));
  return [
    quantizes
      ? vscode.l10n.t('{0} of {1} layers of {2} are stored in fewer bits; the new model goes to {3}.', matched, all, model.name, shortPath(output))
      : vscode.l10n.t('{0} of {1} layers of {2} become MPOs; the new model goes to {3}.', matched, all, model.name, shortPath(output)),
    ...(patterns.length > 0 ? [patterns.slice(0, 8).join('\n')] : []),
    quantizes ? bitsText(quantize, model, layers) : sizeText(tensorize, model, layers),
    ...(typeof predicted?.perplexity === 'number'
      ? [vscode.l10n.t('Predicted perplexity on the profile’s text: {0}.', perplexityRange(predicted.perplexity / Math.exp(predicted.loss), predicted.loss, predicted.loss_error))]
      : []),
    evaluate ? vscode.l10n.t('Both models will be measured.') : vscode.l10n.t('Nothing will be measured: the plan has no “evaluate”.'),
  ];
}

function sizeText(tensorize: PlanContent['tensorize'], model: Model, layers: readonly (readonly Layer[])[]): string {
  let [parameters, bytes] = [model.parameters, model.bytes];
  for (const [i, { chi, keep, sites = 'low-rank', out_modes }] of tensorize.entries()) {
    const target = typeof chi === 'number' ? { chi } : typeof keep === 'number' ? { keep } : undefined;
    if (!target || out_modes) {
      return vscode.l10n.t('{0} parameters, {1}; how small they get is known after the work.', formatParameters(model.parameters), formatBytes(model.bytes));
    }
    const made = estimate(denseLayers(layers[i] ?? []), sites, target);
    parameters += made.parameters - made.denseParameters;
    bytes += made.bytes - made.denseBytes;
  }
  const kept = formatPercent(parameters / model.parameters);
  return vscode.l10n.t('{0} → {1} parameters ({2}), {3} → {4}.', formatParameters(model.parameters), formatParameters(parameters), kept, formatBytes(model.bytes), formatBytes(bytes));
}

function bitsText(rules: PlanContent['quantize'], model: Model, layers: readonly (readonly Layer[])[]): string {
  const schemes = new Set(rules.map(({ scheme }) => scheme).filter(scheme => scheme !== 'float16'));
  const saved = rules.map(({ scheme, rank, rank_bits }, i) => {
    const weights = floatLayers(layers[i] ?? []);
    const backend = schemes.size > 1 ? 'packed' : backendOf(weights, scheme);
    return weights.reduce((sum, weight) => sum + storedBytes(weight, 'float16', 'packed') - storedBytes(weight, scheme, backend, rank ?? 0, rank_bits ?? 4), 0);
  });
  const bytes = model.bytes - saved.reduce((total, each) => total + each, 0);
  return vscode.l10n.t('About {0} → {1} ({2}).', formatBytes(model.bytes), formatBytes(bytes), formatPercent(bytes / model.bytes));
}

async function modelAt(plan: Plan, folder: string, models: ModelList): Promise<Model> {
  await models.ready();
  const known = models.get(folder)?.model;
  if (known) {
    return known;
  }
  try {
    return await openModel(folder);
  } catch (error) {
    const { message, remedy } = problemOf(error, folder);
    throw plan.error(['model'], message, remedy);
  }
}
