/** Tools that start runs or write files. Each shows what it will do in figures, and waits for the user. */
import path from 'node:path';
import { access, readFile } from 'node:fs/promises';
import * as vscode from 'vscode';
import type { Model } from '../checkpoint/index.ts';
import { outputFor, profileRequest, wholeModel } from '../commands/profile.ts';
import { BUILTIN } from '../commands/calibrationText.ts';
import { DEFAULT_SEQUENCES, DEFAULT_SIZES, type ProfileChoices } from '../commands/profileSteps.ts';
import { planOf, type Wanted, writePlan } from '../commands/plan.ts';
import { readyPlan, startPlan } from '../commands/runPlan.ts';
import { evaluateOptions, runRootFor, startRun } from '../commands/startRun.ts';
import { type Chosen, requestOf, type TensorizeParts } from '../commands/tensorize.ts';
import { checkOutput, denseLayers, describeLayers, outputName } from '../commands/tensorizeSteps.ts';
import { withConsent } from '../commands/consent.ts';
import { estimate, parseTarget, type Target } from '../plan/choices.ts';
import { PLAN_SUFFIX } from '../plan/planFile.ts';
import { selectLayers } from '../plan/selectors.ts';
import { isPlanInput, isProfileInput, isRunPlanInput, isTensorizeInput } from '../protocol/validate.js';
import type { PlanInput, ProfileInput, RunPlanInput, RunRequest, TensorizeInput } from '../protocol/types.ts';
import { formatBytes, formatParameters, formatPercent } from '../runs/format.ts';
import { perplexityRange } from '../views/measured.ts';
import { canTensorize } from '../views/modelNodes.ts';
import type { ProfileList } from '../views/profileList.ts';
import { shortPath } from '../views/text.ts';
import { modelNamed } from './reading.ts';
import type { Tool } from './tool.ts';

export interface WorkingParts extends TensorizeParts {
  readonly profiles: ProfileList;
}

export function tensorizeTool(parts: WorkingParts): Tool<TensorizeInput> {
  const understood = async ({ model: name, layers: patterns, size, method = 'fisher', name: wished = '', measure = true }: TensorizeInput) => {
    const model = await modelNamed(parts.models, name);
    const all = selectLayers(model, patterns);
    const layers = all.filter(canTensorize);
    if (layers.length === 0) {
      throw new Error(vscode.l10n.t('None of the {0} layers that match is dense: choose others.', all.length));
    }
    const target = targetOf(size);
    const made = estimate(denseLayers(layers), 'low-rank', target);
    const folder = wished === '' ? outputName(model, layers, 'low-rank', target) : wished;
    const taken = await checkOutput(path.dirname(model.folder), folder, model);
    if (taken?.severity === vscode.InputBoxValidationSeverity.Error) {
      throw new Error(taken.message);
    }
    // Names, not patterns: what was confirmed is what is done, also when a pattern would match a layer that is none.
    const chosen: Chosen = { model, layers, patterns: layers.length === all.length ? patterns : layers.map(layer => layer.name) };
    return { chosen, target, method, folder, measure, made, taken };
  };
  return {
    name: 'bondwise_tensorize',
    isInput: isTensorizeInput,
    working: vscode.l10n.t('Starting a run that tensorizes layers'),
    confirm: async input => {
      const { chosen, method, folder, measure, made, taken } = await understood(input);
      const { model, layers } = chosen;
      const left = model.parameters - made.denseParameters + made.parameters;
      return {
        title: vscode.l10n.t('Tensorize {0} of {1}?', describeLayers(model, layers), model.name),
        lines: [
          vscode.l10n.t('{0} layers, method {1}: {2} → {3} parameters ({4} kept), {5} → {6}.', layers.length, method, formatParameters(made.denseParameters), formatParameters(made.parameters), formatPercent(made.keep), formatBytes(made.denseBytes), formatBytes(made.bytes)),
          vscode.l10n.t('The whole model: {0} → {1} parameters. The new folder is {2}; the original stays.', formatParameters(model.parameters), formatParameters(left), shortPath(path.join(path.dirname(model.folder), folder))),
          ...(taken ? [taken.message] : []),
          measure ? vscode.l10n.t('Both models will be measured.') : vscode.l10n.t('Nothing will be measured.'),
        ],
      };
    },
    run: async input => {
      const { chosen, target, method, folder, measure } = await understood(input);
      return begin(parts, chosen.model, requestOf(chosen, { sites: 'low-rank', method, target, name: folder, measure }));
    },
  };
}

export function profileTool(parts: WorkingParts): Tool<ProfileInput> {
  const understood = async ({ model: name, measured = false }: ProfileInput) => {
    const model = await modelNamed(parts.models, name);
    const chosen = await wholeModel(parts.models, model.folder);
    const [before] = (await parts.profiles.ofModel(model.folder)).filter(({ profile }) => profile !== undefined);
    const choices: ProfileChoices = {
      chosen,
      mode: measured ? 'measured' : 'spectral',
      sizes: DEFAULT_SIZES,
      metric: 'perplexity',
      data: BUILTIN,
      sequences: DEFAULT_SEQUENCES,
      length: evaluateOptions(vscode.Uri.file(model.folder)).length ?? 512,
      sites: 'low-rank',
    };
    return { model, choices, output: await outputFor(parts.profiles, model, choices, before) };
  };
  return {
    name: 'bondwise_profile',
    isInput: isProfileInput,
    working: vscode.l10n.t('Starting a run that profiles sensitivity'),
    confirm: async input => {
      const { model, choices, output } = await understood(input);
      const sizes = 'keep' in DEFAULT_SIZES ? DEFAULT_SIZES.keep.length : DEFAULT_SIZES.chi.length;
      const count = choices.chosen.layers.length;
      return {
        title: vscode.l10n.t('Profile the sensitivity of {0}?', model.name),
        lines: [
          choices.mode === 'measured'
            ? vscode.l10n.t('{0} layers at {1} sizes: {2} measurements of the whole model, with as few of {3} sequences of {4} tokens as each needs.', count, sizes, count * sizes, choices.sequences, choices.length)
            : vscode.l10n.t('The loss of {0} layers at every bond dimension, predicted from one pass over {1} sequences of {2} tokens.', count, choices.sequences, choices.length),
          vscode.l10n.t('The figures go to {0}.', shortPath(output)),
        ],
      };
    },
    run: async input => {
      const { model, choices, output } = await understood(input);
      return begin(parts, model, profileRequest(model, choices, output));
    },
  };
}

export function planTool(parts: WorkingParts): Tool<PlanInput> {
  const understood = async ({ model: name, budget, exclude = [], name: wished = '' }: PlanInput) => {
    const model = await modelNamed(parts.models, name);
    const entry = (await parts.profiles.ofModel(model.folder)).find(({ profile }) => profile !== undefined);
    if (!entry) {
      throw new Error(vscode.l10n.t('{0} has no sensitivity profile yet. Make one with bondwise_profile.', model.name));
    }
    const environment = await parts.engine.find();
    if (environment.python === undefined) {
      throw new Error(vscode.l10n.t('Bondwise’s engine is not set up: the user has to run “Bondwise: Set Up Engine”.'));
    }
    const file = path.join(path.dirname(model.folder), (wished === '' ? `${model.name}-${budget.replaceAll('%', 'pct')}` : wished).replace(/[^\p{L}\p{N}_-]+/gu, '-') + PLAN_SUFFIX);
    const wanted: Wanted = { folder: model.folder, profile: entry.file, target: budget, method: 'fisher', ...(exclude.length > 0 && { exclude }) };
    return { model, environment, file, wanted };
  };
  return {
    name: 'bondwise_plan',
    isInput: isPlanInput,
    working: vscode.l10n.t('Planning'),
    confirm: async input => {
      const { model, environment, file, wanted } = await understood(input);
      const { parameters, original_parameters, bytes, original_bytes, predicted } = await planOf(environment, wanted);
      const isThere = await access(file).then(() => true, () => false);
      return {
        title: vscode.l10n.t('Write a plan for {0}?', model.name),
        lines: [
          vscode.l10n.t('{0} → {1} parameters ({2}), {3} → {4}.', formatParameters(original_parameters), formatParameters(parameters), formatPercent(parameters / original_parameters), formatBytes(original_bytes), formatBytes(bytes)),
          ...(typeof predicted.perplexity === 'number' ? [vscode.l10n.t('Predicted perplexity on the profile’s text: {0}.', perplexityRange(predicted.perplexity / Math.exp(predicted.loss), predicted.loss, predicted.loss_error))] : []),
          isThere ? vscode.l10n.t('{0} is there: its rules are replaced, the rest of it stays.', shortPath(file)) : vscode.l10n.t('The plan goes to {0}. Nothing is compressed yet.', shortPath(file)),
        ],
      };
    },
    run: async input => {
      const { environment, file, wanted } = await understood(input);
      const { parameters, bytes, predicted } = await writePlan(environment, wanted, file);
      return { plan: file, parameters, bytes, predicted };
    },
  };
}

export function runPlanTool(parts: WorkingParts): Tool<RunPlanInput> {
  const ready = async ({ plan }: RunPlanInput) => {
    const file = path.resolve(vscode.workspace.workspaceFolders?.[0]?.uri.fsPath ?? '', plan);
    const text = await readFile(file, 'utf8').catch((error: unknown) => {
      throw new Error(vscode.l10n.t('{0} cannot be read: {1}', file, error instanceof Error ? error.message : String(error)));
    });
    return { file, ...(await readyPlan(text, file, parts.models)) };
  };
  return {
    name: 'bondwise_run_plan',
    isInput: isRunPlanInput,
    working: vscode.l10n.t('Starting the run of a plan'),
    confirm: async input => {
      const { file, lines } = await ready(input);
      return { title: vscode.l10n.t('Run {0}?', path.basename(file)), lines };
    },
    run: async input => {
      const steps = await ready(input);
      return begun(await startPlan(parts, steps), (steps.heal ?? steps.request).options);
    },
  };
}

/** Starts a run. @throws where the user did not allow what it needs. */
async function begin(parts: WorkingParts, model: Model, request: RunRequest) {
  return beginAllowed(parts, model, await withConsent(parts.context, model, request));
}

/** Starts a run whose code the user allowed. @throws where there is none, and where the user did not want the engine. */
export async function beginAllowed(parts: WorkingParts, model: Model, allowed: RunRequest | undefined) {
  const directory = allowed && (await startRun(parts.engine, parts.runs, runRootFor(model.folder, parts.storage), allowed));
  return begun(directory, allowed?.options);
}

/** What a model is told of a run that was started. @throws where the user did not allow what it needs. */
function begun(directory: string | undefined, options: RunRequest['options'] | undefined) {
  if (directory === undefined || options === undefined) {
    throw new Error(vscode.l10n.t('The user did not allow it: nothing was started.'));
  }
  return { run: path.basename(directory), state: 'queued', ...('output' in options && { output: options.output }) };
}

function targetOf(size: string): Target {
  const target = parseTarget(size);
  if (!target || 'problem' in target) {
    throw new Error(target ? `${target.problem} ${target.remedy}` : vscode.l10n.t('Say a size, such as 50% or 64.'));
  }
  return target;
}
