/** Tools that only read: models, layers, profiles, runs. */
import path from 'node:path';
import * as vscode from 'vscode';
import type { Layer, Model } from '../checkpoint/index.ts';
import { selectLayers } from '../plan/selectors.ts';
import { layerSensitivities, REFERENCE_KEEP } from '../profile/levels.ts';
import { isListLayersInput, isListModelsInput, isReadProfileInput, isRunStatusInput } from '../protocol/validate.js';
import type { ListLayersInput, ListModelsInput, ReadProfileInput, RunStatusInput } from '../protocol/types.ts';
import { errorOf, progressText, type Run } from '../runs/run.ts';
import type { RunStore } from '../runs/store.ts';
import type { ModelList } from '../views/modelList.ts';
import type { ProfileList } from '../views/profileList.ts';
import type { Tool } from './tool.ts';

export interface ReadingParts {
  readonly models: ModelList;
  readonly profiles: ProfileList;
  readonly runs: RunStore;
}

/** Runs that are told of where none is named. */
const LATEST = 10;
/** Layers that are told of: a mixture of experts may have tens of thousands. */
const MOST_LAYERS = 1000;

/** A model by its name or folder. @throws naming those that there are. */
export async function modelNamed(models: ModelList, name: string): Promise<Model> {
  await models.ready();
  const found = models.entries.filter(({ folder }) => folder === path.resolve(name) || path.basename(folder) === name);
  const [entry, second] = found;
  if (!entry) {
    const known = models.entries.map(({ folder }) => path.basename(folder)).join(', ');
    throw new Error(vscode.l10n.t('There is no model “{0}” in this window. There are: {1}', name, known === '' ? vscode.l10n.t('none') : known));
  }
  if (second) {
    throw new Error(vscode.l10n.t('Several models are called {0}. Name the folder: {1}', name, found.map(({ folder }) => folder).join(', ')));
  }
  if (!entry.model) {
    throw new Error(vscode.l10n.t('{0} cannot be read: {1}', name, entry.problem?.message ?? ''));
  }
  return entry.model;
}

export function listModels({ models, profiles }: ReadingParts): Tool<ListModelsInput> {
  return {
    name: 'bondwise_list_models',
    isInput: isListModelsInput,
    working: vscode.l10n.t('Listing models'),
    run: async () => {
      await models.ready();
      return Promise.all(
        models.entries.map(async ({ folder, model, problem }) => ({
          name: path.basename(folder),
          folder,
          ...(problem && { problem: problem.message }),
          ...(model && {
            architecture: model.architecture,
            parameters: model.parameters,
            bytes: model.bytes,
            blocks: model.blocks.length,
            layers: model.blocks.reduce((sum, block) => sum + block.layers.length, 0),
            compressed_layers: model.blocks.flatMap(block => block.layers).filter(({ state }) => state !== 'dense').length,
            ...(model.lineage && { made_from: model.lineage.base.name }),
            profiles: (await profiles.ofModel(folder)).map(({ file }) => file),
          }),
        })),
      );
    },
  };
}

export function listLayers({ models }: ReadingParts): Tool<ListLayersInput> {
  return {
    name: 'bondwise_list_layers',
    isInput: isListLayersInput,
    working: vscode.l10n.t('Listing layers'),
    run: async ({ model: name, layers = [] }) => {
      const model = await modelNamed(models, name);
      const found = layers.length > 0 ? selectLayers(model, layers) : model.blocks.flatMap(block => block.layers);
      return { model: model.name, container: model.container, layers: found.slice(0, MOST_LAYERS).map(layerFacts), left_out: Math.max(0, found.length - MOST_LAYERS) };
    },
  };
}

function layerFacts({ name, shape, dtype, parameters, bytes, state, bondDims, keep }: Layer) {
  return { name, shape, dtype, parameters, bytes, state, ...(bondDims && { bond_dims: bondDims }), ...(keep !== undefined && { keep: Number(keep.toPrecision(3)) }) };
}

export function readProfile({ models, profiles }: ReadingParts): Tool<ReadProfileInput> {
  return {
    name: 'bondwise_read_profile',
    isInput: isReadProfileInput,
    working: vscode.l10n.t('Reading the sensitivity profile'),
    run: async ({ model: name, most = 40 }) => {
      const model = await modelNamed(models, name);
      const entry = (await profiles.ofModel(model.folder)).find(one => one.profile !== undefined);
      if (!entry?.profile) {
        throw new Error(vscode.l10n.t('{0} has no sensitivity profile yet. Make one with bondwise_profile.', model.name));
      }
      const { profile, file, notes } = entry;
      const found = [...layerSensitivities(profile)].sort(([, a], [, b]) => b.rise - a.rise);
      return {
        file,
        metric: profile.metric,
        text: profile.data,
        complete: profile.complete,
        baseline: profile.baseline,
        notes: [...notes, `Each layer near ${REFERENCE_KEEP * 100}% of its parameters; rise of the mean loss in nats per token when that layer alone is compressed.`],
        layers: found.slice(0, most).map(([layer, { rise, error, chi, keep, source, level }]) => ({ layer, rise: round(rise), ...(error !== undefined && { error: round(error) }), chi, keep: round(keep), source, level })),
        left_out: Math.max(0, found.length - most),
      };
    },
  };
}

export function runStatus({ runs }: ReadingParts): Tool<RunStatusInput> {
  return {
    name: 'bondwise_run_status',
    isInput: isRunStatusInput,
    working: vscode.l10n.t('Looking at runs'),
    run: async ({ run: id = '' }) => {
      await runs.refresh();
      if (id === '') {
        return { runs: runs.runs.slice(0, LATEST).map(runFacts), left_out: Math.max(0, runs.runs.length - LATEST) };
      }
      const found = runs.runs.find(run => run.id === path.basename(id));
      if (!found) {
        throw new Error(vscode.l10n.t('There is no run {0}. The latest is {1}.', id, runs.runs[0]?.id ?? vscode.l10n.t('none')));
      }
      return { ...runFacts(found), ...(found.result && { result: found.result }) };
    },
  };
}

function runFacts(run: Run) {
  const error = errorOf(run);
  return {
    id: run.id,
    title: run.title,
    state: run.state,
    progress: progressText(run),
    created: run.created,
    ...(run.state === 'failed' || run.state === 'interrupted' ? { problem: error?.message, remedy: error?.remedy } : {}),
    ...(run.result && 'output' in run.result ? { output: run.result.output } : {}),
  };
}

function round(value: number): number {
  return Number(value.toPrecision(3));
}
