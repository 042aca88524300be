/** “Tensorize…”: from layers, or a question for them, to a run. */
import path from 'node:path';
import * as vscode from 'vscode';
import type { Layer, Model } from '../checkpoint/index.ts';
import type { Target } from '../plan/choices.ts';
import { selectLayers } from '../plan/selectors.ts';
import type { TensorizeRequest } from '../protocol/types.ts';
import { withChanges } from '../runs/changes.ts';
import { formatParameters } from '../runs/format.ts';
import type { RunStore } from '../runs/store.ts';
import type { ModelList } from '../views/modelList.ts';
import { canTensorize, isTreeNode, layersOf, modelOf } from '../views/modelNodes.ts';
import { oneLine } from '../views/text.ts';
import { calibrationText, pickMethod } from './calibrationText.ts';
import { withConsent } from './consent.ts';
import type { EngineCommands } from './engine.ts';
import { askLayers } from './pickLayers.ts';
import { askAll, askText, BACK, pickOne } from './quickInput.ts';
import { evaluateOptions, isAsked, requestBase, runRootFor, startRun } from './startRun.ts';
import { checkOutput, denseLayers, describeLayers, measureLook, outputName, siteItems, targetItems, type Way } from './tensorizeSteps.ts';

export interface TensorizeParts {
  readonly context: vscode.ExtensionContext;
  readonly models: ModelList;
  readonly runs: RunStore;
  readonly engine: EngineCommands;
  readonly storage: vscode.Uri;
  readonly showRun: (directory: string) => Promise<void>;
}

/** What is to be compressed: layers of one model, and how the request names them. */
export interface Chosen {
  readonly model: Model;
  readonly layers: readonly Layer[];
  /** Exact names, or the one pattern that the user typed. */
  readonly patterns: readonly string[];
}

interface Choices extends Way {
  readonly target: Target;
  readonly name: string;
  readonly measure: boolean;
}

/** @param args of a context menu: the row, and all selected rows. */
export async function tensorize(parts: TensorizeParts, args: readonly unknown[]): Promise<void> {
  const chosen = chosenBy(args) ?? (await askLayers(parts.models));
  if (chosen) {
    await askAndStart(parts, chosen);
  }
}

/** The questions again, with the answers of an earlier run of one rule. */
export async function tensorizeAgain(parts: TensorizeParts, model: Model, before: TensorizeRequest): Promise<void> {
  const [{ layers: patterns, chi, keep, sites = 'low-rank', method = 'plain' }] = before.options.tensorize;
  const layers = selectLayers(model, patterns).filter(canTensorize);
  const target = typeof chi === 'number' ? { chi } : { keep: keep ?? 1 };
  await askAndStart(parts, { model, layers, patterns }, before, { sites, method, target, measure: isAsked(before.options.evaluate) });
}

async function askAndStart(parts: TensorizeParts, chosen: Chosen, before?: TensorizeRequest, proposed?: Omit<Choices, 'name'>): Promise<void> {
  const choices = await askChoices(chosen, proposed);
  const asked = choices && requestOf(chosen, choices);
  const request = asked && (await withConsent(parts.context, chosen.model, before ? withChanges(before, asked) : asked));
  const directory = request && (await startRun(parts.engine, parts.runs, runRootFor(chosen.model.folder, parts.storage), request));
  if (directory !== undefined) {
    await parts.showRun(directory);
  }
}

/**
 * The layers that rows of the tree stand for; undefined without rows.
 * @throws when they belong to several models, or none of them can become an MPO.
 */
export function chosenBy([clicked, selected]: readonly unknown[]): Chosen | undefined {
  const nodes = (Array.isArray(selected) && selected.length > 0 ? (selected as readonly unknown[]) : [clicked]).filter(isTreeNode);
  if (nodes.length === 0) {
    return undefined;
  }
  const models = [...new Set(nodes.map(node => modelOf(node).entry.model))];
  const [model] = models;
  if (!model || models.length > 1) {
    throw new Error(vscode.l10n.t('One model at a time: select layers or blocks of one model.'));
  }
  const all = [...new Set(nodes.flatMap(layersOf))];
  const layers = all.filter(canTensorize);
  if (layers.length === 0) {
    throw new Error(excluded(all));
  }
  if (layers.length < all.length) {
    // The questions that follow show how many are meant; nothing is to be decided here.
    const text = vscode.l10n.t('{0} of {1} layers are taken. Left out: {2}', layers.length, all.length, excluded(all.filter(layer => !canTensorize(layer))));
    vscode.window.setStatusBarMessage(text, 20_000);
  }
  return { model, layers, patterns: layers.map(layer => layer.name) };
}

/** What is asked of the engine. */
export function requestOf({ model, layers, patterns }: Chosen, { sites, method, target, name, measure }: Choices): TensorizeRequest {
  const scope = vscode.Uri.file(model.folder);
  const far = 'chi' in target ? `χ ${target.chi}` : targetText(target);
  return {
    kind: 'tensorize',
    ...requestBase(vscode.l10n.t('Tensorize {0}, {1}', describeLayers(model, layers), far), scope),
    model: model.folder,
    options: {
      tensorize: [{ layers: [...patterns], sites, method, ...target }],
      ...(method === 'plain' ? {} : { calibration: { data: calibrationText(scope) } }),
      output: path.join(path.dirname(model.folder), name),
      evaluate: measure ? evaluateOptions(scope) : null,
    },
  };
}

async function askChoices({ model, layers }: Chosen, proposed?: Omit<Choices, 'name'>): Promise<Choices | undefined> {
  const dense = denseLayers(layers);
  const [only] = layers;
  const title = vscode.l10n.t('Tensorize {0}', layers.length === 1 && only ? oneLine(only.name, 60) : vscode.l10n.t('{0} layers of {1}', layers.length, oneLine(model.name, 40)));
  const parent = path.dirname(model.folder);
  let way: Way = proposed ?? { sites: 'low-rank', method: 'fisher' };
  let target: Target | undefined;
  let name: string | undefined;
  let measure = proposed?.measure ?? true;
  const answered = await askAll([
    async position => {
      const items = siteItems(dense);
      const active = items.find(item => item.way?.sites === way.sites && item.way.method === way.method);
      const answer = await pickMethod({
        position: { ...position, title },
        placeholder: vscode.l10n.t('How many cores, and how each is cut (output × input)'),
        items,
        ...(active ? { active } : {}),
        scope: vscode.Uri.file(model.folder),
        otherwise: 'builtin',
      });
      if (answer === undefined || answer === BACK) {
        return answer;
      }
      way = answer.way ?? way;
      return 'next';
    },
    async position => {
      const answer = await pickOne({
        position: { ...position, title },
        placeholder: vscode.l10n.t('Choose, or type a bond dimension (64) or a share (30%) of {0} parameters', formatParameters(sum(dense.map(layer => layer.out * layer.in)))),
        items: text => targetItems(dense, way.sites, text),
        ...(proposed ? { text: targetText(target ?? proposed.target) } : {}),
        isAnswer: item => item.target !== undefined,
      });
      if (answer === undefined || answer === BACK) {
        return answer;
      }
      target = answer.target;
      return 'next';
    },
    async position => {
      const proposed = target && outputName(model, layers, way.sites, target);
      const look = () => measureLook(parent, measure);
      const answer = await askText({
        position: { ...position, title },
        value: proposed ?? '',
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
      if (answer === undefined || answer === BACK) {
        return answer;
      }
      name = answer;
      return 'next';
    },
  ]);
  return answered && target && name !== undefined ? { ...way, target, name, measure } : undefined;
}

function excluded(layers: readonly Layer[]): string {
  const reasons = layers.map(layer =>
    layer.state === 'mpo'
      ? vscode.l10n.t('{0} is tensorized already.', layer.name)
      : layer.state === 'quantized'
        ? vscode.l10n.t('{0} is quantized: take the unquantized model.', layer.name)
        : vscode.l10n.t('{0} is not a matrix: its shape is {1}.', layer.name, layer.shape.join('×')),
  );
  const [first] = reasons;
  if (first === undefined) {
    return vscode.l10n.t('There are no dense layers here. Choose a layer, a block or a model.');
  }
  return reasons.length === 1 ? first : vscode.l10n.t('{0} (and {1} more)', first, reasons.length - 1);
}

/** As it is typed. */
function targetText(target: Target): string {
  return 'chi' in target ? String(target.chi) : `${Number((target.keep * 100).toPrecision(3))}%`;
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
