/** “Heal Model…”: from a compressed model to a run that trains its cores, and the panel that shows it. */
import path from 'node:path';
import * as vscode from 'vscode';
import { type Model, openModel } from '../checkpoint/index.ts';
import { doctor } from '../engine/command.ts';
import type { Environment } from '../engine/find.ts';
import { budgetText, guessedSpeed, type HealBudget, type Load, proposeSteps, scaledSpeed } from '../plan/healing.ts';
import type { HealRequest, RunRequest } from '../protocol/types.ts';
import { withChanges } from '../runs/changes.ts';
import { compressedBy, type Run } from '../runs/run.ts';
import { isTreeNode, modelOf } from '../views/modelNodes.ts';
import { oneLine } from '../views/text.ts';
import { RunNode } from '../views/runsTree.ts';
import { BUILTIN } from './calibrationText.ts';
import { withConsent } from './consent.ts';
import { askHeal, trainedOf, type Hardware, type HealChoices, originalOf } from './healSteps.ts';
import { pickModel } from './pickLayers.ts';
import { askAll, taken } from './quickInput.ts';
import { evaluateOptions, isAsked, requestBase, runRootFor, startRun } from './startRun.ts';
import type { TensorizeParts } from './tensorize.ts';

export interface HealParts extends TensorizeParts {
  readonly showPanel: (directory: string) => void;
}

/** @param args of a context menu: a model's row, or that of a run that made one; or a folder; or nothing, from the palette. */
export async function heal(parts: HealParts, [clicked]: readonly unknown[]): Promise<void> {
  const folder = folderOf(clicked);
  const model = folder === undefined ? await askModel(parts) : await compressedModel(parts, folder);
  if (model) {
    await askAndStart(parts, model);
  }
}

/** The questions again, with the answers of an earlier run. */
export async function healAgain(parts: HealParts, folder: string, before: HealRequest): Promise<void> {
  const { data = [{ data: BUILTIN }], distill = 0.5, minutes, tokens, epochs, teacher, evaluate } = before.options;
  const budget: HealBudget = typeof minutes === 'number' ? { minutes } : typeof tokens === 'number' ? { tokens } : { epochs: epochs ?? 1 };
  const proposed: Partial<HealChoices> = {
    data,
    distill,
    budget,
    processes: before.processes ?? 1,
    measure: isAsked(evaluate),
    ...(typeof teacher === 'string' && { original: teacher }),
    ...(before.device !== undefined && before.device !== 'auto' && { device: before.device }),
  };
  await askAndStart(parts, await compressedModel(parts, folder), before, proposed);
}

async function askAndStart(parts: HealParts, model: Model, before?: HealRequest, proposed?: Partial<HealChoices>): Promise<void> {
  const environment = await parts.engine.require();
  if (!environment) {
    return;
  }
  const hardware = await vscode.window.withProgress({ location: vscode.ProgressLocation.Window, title: vscode.l10n.t('Looking at the hardware') }, () => hardwareOf(environment));
  const speed = (load: Load) => earlierSpeed(parts.runs.runs, load);
  const choices = await askHeal({ model, hardware, speed, ...(proposed && { proposed }) });
  const asked = choices && healRequest(model, choices, hardware, speed);
  const request = asked && (await allowed(parts, model, choices, before ? withChanges(before, asked) : asked));
  const directory = request && (await startRun(parts.engine, parts.runs, runRootFor(model.folder, parts.storage), request));
  if (directory !== undefined) {
    await parts.showRun(directory);
    parts.showPanel(directory);
  }
}

/** What is asked of the engine. */
export function healRequest(model: Model, { data, distill, original, device, processes, budget, name, measure }: HealChoices, hardware: Hardware, speed: (load: Load) => number | undefined): HealRequest {
  const scope = vscode.Uri.file(model.folder);
  const base = requestBase(vscode.l10n.t('Heal {0}, {1}', oneLine(model.name, 60), budgetText(budget)), scope);
  const machine = { device: device ?? (base.device === 'auto' ? hardware.device : base.device), cores: hardware.cores };
  const load: Load = { parameters: model.parameters, original: distill > 0 ? (model.lineage?.result?.original_parameters ?? 0) : 0 };
  const { prompt } = evaluateOptions(scope);
  return {
    kind: 'heal',
    ...base,
    ...(device === undefined ? {} : { device }),
    ...(processes > 1 ? { processes } : {}),
    model: model.folder,
    options: {
      data: [...data],
      ...budget,
      ...proposeSteps(budget, machine, speed(load) ?? guessedSpeed(load, machine)),
      distill,
      ...(original === undefined ? {} : { teacher: original }),
      ...(prompt === undefined ? {} : { prompt }),
      output: path.join(path.dirname(model.folder), name),
      evaluate: measure ? evaluateOptions(scope) : null,
    },
  };
}

/** Tokens a second of the last healing in these runs that trained on one device, brought to a model of this size. */
export function earlierSpeed(runs: readonly Run[], load: Load): number | undefined {
  for (const { request, summary } of runs) {
    const [plan, last] = [summary.heal?.plan?.plan, summary.heal?.steps.at(-1)];
    if (request?.kind === 'heal' && plan && last && (request.processes ?? 1) === 1) {
      // The original is a little larger than the model; which of them it was matters more than by how much.
      const before = { parameters: plan.parameters, original: (request.options.distill ?? 0.5) > 0 ? plan.parameters : 0 };
      return scaledSpeed(last.tokens_per_second, before, load);
    }
  }
  return undefined;
}

export async function hardwareOf(environment: Environment): Promise<Hardware> {
  const { device, cores = 1, devices = [] } = await doctor(environment);
  return { device, cores, devices };
}

/** Both models may bring code of their own. */
export async function allowed(parts: TensorizeParts, model: Model, { original }: HealChoices, request: RunRequest): Promise<RunRequest | undefined> {
  const own = await withConsent(parts.context, model, request);
  return own && original !== undefined ? withConsent(parts.context, await openModel(original), own) : own;
}

function folderOf(clicked: unknown): string | undefined {
  if (clicked instanceof RunNode) {
    return compressedBy(clicked.run);
  }
  return typeof clicked === 'string' ? clicked : isTreeNode(clicked) ? modelOf(clicked).entry.folder : undefined;
}

/** @throws where there is nothing to heal. */
export async function compressedModel({ models }: Pick<TensorizeParts, 'models'>, folder: string): Promise<Model> {
  await models.ready();
  const model = models.get(folder)?.model ?? (await openModel(folder));
  if (!model.lineage || trainedOf(model) === 0) {
    throw new Error(vscode.l10n.t('{0} has nothing that heals. Tensorize layers of it first, or quantize them to compensated bits.', model.name));
  }
  return model;
}

async function askModel({ models }: HealParts): Promise<Model | undefined> {
  await models.ready();
  const offered = models.entries.flatMap(({ model }) => (model && originalOf(model) !== undefined && trainedOf(model) > 0 ? [model] : []));
  const [only] = offered;
  if (!only) {
    throw new Error(vscode.l10n.t('There is no compressed model in this window. Make one with “Bondwise: Tensorize…”.'));
  }
  if (offered.length === 1) {
    return only;
  }
  let model: Model | undefined;
  await askAll([
    async position =>
      taken(await pickModel(offered, { ...position, title: vscode.l10n.t('Heal: which model') }), answer => {
        model = answer;
      }),
  ]);
  return model;
}
