/** “Quantize…”: from layers to a run that stores them in fewer bits. */
import path from 'node:path';
import * as vscode from 'vscode';
import type { Layer, Model } from '../checkpoint/index.ts';
import { selectLayers } from '../plan/selectors.ts';
import type { QuantizeRequest } from '../protocol/types.ts';
import { withChanges } from '../runs/changes.ts';
import { isTreeNode, layersOf, modelOf } from '../views/modelNodes.ts';
import { oneLine } from '../views/text.ts';
import { calibrationText, pickMethod } from './calibrationText.ts';
import { withConsent } from './consent.ts';
import { pickModel } from './pickLayers.ts';
import { askAll, askText, BACK } from './quickInput.ts';
import { canQuantize, needsText, quantizedName, schemeItems, type SchemeItem, type Way } from './quantizeSteps.ts';
import { evaluateOptions, isAsked, requestBase, runRootFor, startRun } from './startRun.ts';
import type { Chosen, TensorizeParts } from './tensorize.ts';
import { checkOutput, describeLayers, measureLook } from './tensorizeSteps.ts';

interface Choices {
  readonly way: Way;
  readonly name: string;
  readonly measure: boolean;
}

/** @param args of a context menu: the row, and all selected rows. */
export async function quantize(parts: TensorizeParts, args: readonly unknown[]): Promise<void> {
  const chosen = quantizable(args) ?? (await askModel(parts));
  if (chosen) {
    await askAndStart(parts, chosen);
  }
}

/** The questions again, with the answers of an earlier run of one rule or of a budget. */
export async function quantizeAgain(parts: TensorizeParts, model: Model, before: QuantizeRequest): Promise<void> {
  const { quantize: [rule] = [], budget, evaluate } = before.options;
  const way: Way | undefined = rule ? { scheme: rule.scheme } : budget ? { budget: budget.target } : undefined;
  const patterns = rule?.layers ?? budget?.layers ?? ['*'];
  const chosen = { ...chosenOf(model, selectLayers(model, patterns)), patterns };
  await askAndStart(parts, chosen, before, { measure: isAsked(evaluate), ...(way && { way }) });
}

async function askAndStart(parts: TensorizeParts, chosen: Chosen, before?: QuantizeRequest, proposed?: Partial<Choices>): Promise<void> {
  const choices = await askChoices(chosen, proposed);
  const asked = choices && quantizeRequest(chosen, choices);
  const request = asked && (await withConsent(parts.context, chosen.model, before ? withChanges(before, asked) : asked));
  const directory = request && (await startRun(parts.engine, parts.runs, runRootFor(chosen.model.folder, parts.storage), request));
  if (directory !== undefined) {
    await parts.showRun(directory);
  }
}

/**
 * The layers that rows of the tree stand for; undefined without rows. Where dense layers are among them, the cores of others stay in 16 bits.
 * @throws when they belong to several models, or nothing in them can be quantized.
 */
export function quantizable([clicked, selected]: readonly unknown[]): Chosen | undefined {
  const nodes = (Array.isArray(selected) && selected.length > 0 ? (selected as readonly unknown[]) : [clicked]).filter(isTreeNode);
  if (nodes.length === 0) {
    return undefined;
  }
  const [model, ...others] = [...new Set(nodes.map(node => modelOf(node).entry.model))];
  if (!model || others.length > 0) {
    throw new Error(vscode.l10n.t('One model at a time: select layers or blocks of one model.'));
  }
  return chosenOf(model, [...new Set(nodes.flatMap(layersOf))]);
}

/** What is asked of the engine. */
export function quantizeRequest({ model, layers, patterns }: Chosen, { way, name, measure }: Choices): QuantizeRequest {
  const scope = vscode.Uri.file(model.folder);
  const what = 'scheme' in way ? way.scheme : way.budget;
  const [first, ...more] = patterns;
  if (first === undefined) {
    throw new Error(vscode.l10n.t('Choose a layer, a block or a model.'));
  }
  const names: [string, ...string[]] = [first, ...more];
  return {
    kind: 'quantize',
    ...requestBase(vscode.l10n.t('Quantize {0}, {1}', describeLayers(model, layers), what), scope),
    model: model.folder,
    options: {
      ...('scheme' in way ? { quantize: [{ layers: names, scheme: way.scheme }] } : { budget: { target: way.budget, layers: names } }),
      ...(needsText(way) ? { calibration: { data: calibrationText(scope) } } : {}),
      output: path.join(path.dirname(model.folder), name),
      evaluate: measure ? evaluateOptions(scope) : null,
    },
  };
}

/** Of these layers those that are meant; dense ones before MPOs. @throws where there are none. */
export function chosenOf(model: Model, all: readonly Layer[]): Chosen {
  const fit = all.filter(canQuantize);
  const dense = fit.filter(({ state }) => state === 'dense');
  const layers = dense.length > 0 ? dense : fit;
  if (layers.length === 0) {
    const [first] = all;
    throw new Error(
      first?.scheme === undefined
        ? vscode.l10n.t('There are no layers here that can be quantized. Choose a layer, a block or a model.')
        : vscode.l10n.t('{0} is quantized already: take the unquantized model.', first.name),
    );
  }
  return { model, layers, patterns: layers.map(layer => layer.name) };
}

async function askModel({ models }: TensorizeParts): Promise<Chosen | undefined> {
  await models.ready();
  const layersIn = (model: Model) => model.blocks.flatMap(block => block.layers);
  const offered = models.entries.flatMap(({ model }) => (model && layersIn(model).some(canQuantize) ? [model] : []));
  if (offered.length === 0) {
    throw new Error(vscode.l10n.t('There is no model to quantize in this window. Add one with “Bondwise: Add Model…”.'));
  }
  const model = await pickModel(offered, { title: vscode.l10n.t('Quantize: which model'), step: 1, totalSteps: 3 });
  return model === undefined || model === BACK ? undefined : chosenOf(model, layersIn(model));
}

async function askChoices({ model, layers }: Chosen, proposed: Partial<Choices> = {}): Promise<Choices | undefined> {
  const [only] = layers;
  const title = vscode.l10n.t('Quantize {0}', layers.length === 1 && only ? oneLine(only.name, 60) : vscode.l10n.t('{0} layers of {1}', layers.length, oneLine(model.name, 40)));
  const parent = path.dirname(model.folder);
  let { way, measure = true } = proposed;
  let name: string | undefined;
  const answered = await askAll([
    async position => {
      const answer = await pickMethod<SchemeItem>({
        position: { ...position, title },
        placeholder: vscode.l10n.t('Choose, or type bits (3.5 bits) or the size of the new folder (120 MB)'),
        items: typed => schemeItems(model, layers, typed),
        isAnswer: item => item.way !== undefined,
        ...(way && 'budget' in way ? { text: way.budget } : {}),
        ...activeItem(schemeItems(model, layers, ''), way),
        scope: vscode.Uri.file(model.folder),
        otherwise: 'builtin',
      });
      if (answer === undefined || answer === BACK) {
        return answer;
      }
      way = answer.way;
      return 'next';
    },
    async position => {
      const look = () => measureLook(parent, measure);
      const answer = await askText({
        position: { ...position, title },
        value: way ? quantizedName(model, way) : '',
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
  return answered && way && name !== undefined ? { way, name, measure } : undefined;
}

function activeItem(items: readonly SchemeItem[], way: Way | undefined): { readonly active?: SchemeItem } {
  const active = items.find(item => way && item.way && 'scheme' in way && 'scheme' in item.way && item.way.scheme === way.scheme);
  return active ? { active } : {};
}
