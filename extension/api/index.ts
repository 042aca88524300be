/** What other extensions may use: bondwise.d.ts, over the parts of this one. */
import path from 'node:path';
import * as vscode from 'vscode';
import { type Model, openModel } from '../checkpoint/index.ts';
import { withConsent } from '../commands/consent.ts';
import type { EngineCommands } from '../commands/engine.ts';
import { requestBase, runRootFor, startRun } from '../commands/startRun.ts';
import { layerSensitivities } from '../profile/levels.ts';
import { isRunRequest } from '../protocol/validate.js';
import type { RunRequest } from '../protocol/types.ts';
import { cancelRun } from '../runs/control.ts';
import { reasonOf } from '../runs/files.ts';
import { requestPath } from '../runs/requestFacts.ts';
import { errorOf, type Run } from '../runs/run.ts';
import type { RunStore } from '../runs/store.ts';
import type { ModelList } from '../views/modelList.ts';
import type { ProfileList } from '../views/profileList.ts';
import type { BondwiseApi, LayerInfo, ModelInfo, RunInfo, StartRequest } from './bondwise.d.ts';

export interface ApiParts {
  readonly context: vscode.ExtensionContext;
  readonly models: ModelList;
  readonly profiles: ProfileList;
  readonly runs: RunStore;
  readonly engine: EngineCommands;
  readonly storage: vscode.Uri;
}

export function publicApi(parts: ApiParts): BondwiseApi {
  const { context, models, profiles, runs } = parts;
  const changedModels = new vscode.EventEmitter<void>();
  const changedRuns = new vscode.EventEmitter<readonly RunInfo[]>();
  context.subscriptions.push(
    changedModels,
    changedRuns,
    models.onDidChange(() => changedModels.fire()),
    runs.onDidChange(({ changed, added }) => changedRuns.fire([...added, ...changed.map(({ run }) => run)].map(runInfo))),
  );
  return {
    version: 1,
    getModels: async () => {
      await models.ready();
      return models.entries.map(({ folder, model, problem }) => ({ folder, name: path.basename(folder), ...(problem && { problem: problem.message }), ...(model && modelInfo(model)) }));
    },
    onDidChangeModels: changedModels.event,
    getLayers: async folder => {
      const model = models.get(folder)?.model ?? (await openModel(folder));
      return model.blocks.flatMap(block => block.layers.map(({ name, shape, dtype, parameters, bytes, state, bondDims }): LayerInfo => ({ name, block: block.index, shape, dtype, parameters, bytes, state, ...(bondDims && { bondDims }) })));
    },
    getProfiles: async folder =>
      (await profiles.ofModel(folder)).flatMap(({ file, profile }) =>
        profile
          ? [{
              file,
              complete: profile.complete ?? false,
              layers: [...layerSensitivities(profile)]
                .sort(([, a], [, b]) => b.rise - a.rise)
                .map(([name, { rise, error, chi, keep, source }]) => ({ name, rise, chi, keep, source, ...(error !== undefined && { error }) })),
            }]
          : [],
      ),
    getRuns: () => runs.runs.map(runInfo),
    onDidChangeRuns: changedRuns.event,
    startRun: async asked => {
      const directory = await start(parts, asked);
      const run = directory === undefined ? undefined : runs.get(directory);
      return run && runInfo(run);
    },
    cancelRun: async directory => {
      const run = runs.get(directory);
      if (!run) {
        throw new Error(vscode.l10n.t('There is no run in {0} any more. It was deleted or moved, or its folder is not one of this workspace.', directory));
      }
      await cancelRun(run);
      await runs.refresh();
    },
  };
}

async function start({ context, models, runs, engine, storage }: ApiParts, { kind, title, model: folder, options, device, seed = 0 }: StartRequest): Promise<string | undefined> {
  if (!vscode.workspace.isTrusted) {
    throw new Error(vscode.l10n.t('Runs need a trusted workspace.'));
  }
  const named = kind === 'benchmark' && Array.isArray(options.models) ? options.models.filter(one => typeof one === 'string') : folder === undefined ? [] : [folder];
  const scope = vscode.Uri.file(named[0] ?? storage.fsPath);
  const asked: unknown = { ...requestBase(title, scope), kind, ...(folder !== undefined && { model: folder }), options, seed, ...(device !== undefined && { device }) };
  if (!isRunRequest(asked)) {
    throw new Error(vscode.l10n.t('The request cannot be run: {0}', reasonOf(isRunRequest)));
  }
  let request: RunRequest | undefined = asked;
  for (const one of named) {
    request = request && (await withConsent(context, models.get(one)?.model ?? (await openModel(one)), request));
  }
  return request && startRun(engine, runs, runRootFor(scope.fsPath, storage), request);
}

function modelInfo(model: Model): Omit<ModelInfo, 'folder' | 'name'> {
  return {
    ...(model.architecture !== null && { architecture: model.architecture }),
    parameters: model.parameters,
    bytes: model.bytes,
    blocks: model.blocks.length,
    ...(model.lineage && { madeFrom: path.resolve(model.folder, model.lineage.base.path) }),
  };
}

function runInfo(run: Run): RunInfo {
  const { id, directory, title, state, created, request, status, result } = run;
  const error = errorOf(run);
  const progress = status?.progress;
  return {
    id,
    directory,
    title,
    state,
    created,
    ...(request && { kind: request.kind }),
    ...(status?.phase ? { phase: status.phase } : {}),
    ...(progress && { progress: { done: progress.done, total: progress.total, unit: progress.unit, ...(typeof progress.eta === 'number' && { eta: progress.eta }) } }),
    ...(error && { error: { message: error.message, ...(error.remedy ? { remedy: error.remedy } : {}) } }),
    ...(request && 'output' in request.options && { output: requestPath(directory, request.options.output) }),
    ...(result && { result: { ...result } }),
  };
}
