/** “Run Again With Changes…”: the questions that led to a run, with its answers in them; of what no question asks, a plan. */
import { existsSync } from 'node:fs';
import path from 'node:path';
import * as vscode from 'vscode';
import { type Model, openModel } from '../checkpoint/index.ts';
import { portablePath } from '../plan/paths.ts';
import { PLAN_SUFFIX } from '../plan/planFile.ts';
import type { QuantizeRequest, RunRequest, TensorizeRequest } from '../protocol/types.ts';
import { modelsOf } from '../runs/lineage.ts';
import { requestPath } from '../runs/requestFacts.ts';
import type { Run } from '../runs/run.ts';
import { oneLine } from '../views/text.ts';
import { benchmarkAgain, type BenchmarkParts } from './benchmark.ts';
import { exportModel } from './export.ts';
import { healAgain, type HealParts } from './heal.ts';
import { profileAgain, type ProfileParts } from './profile.ts';
import { quantizeAgain } from './quantize.ts';
import { tensorizeAgain } from './tensorize.ts';

export type ChangeParts = HealParts & ProfileParts & BenchmarkParts;

/** @throws where the run cannot be read, or has no questions. */
export async function runWithChanges(parts: ChangeParts, run: Run): Promise<void> {
  const request = absolute(run);
  switch (request?.kind) {
    case 'tensorize':
    case 'quantize':
      return isOfPlan(request) ? openAsPlan(request) : request.kind === 'tensorize' ? tensorizeAgain(parts, await modelAt(parts, request.model), request) : quantizeAgain(parts, await modelAt(parts, request.model), request);
    case 'heal':
      return healAgain(parts, request.model, request);
    case 'profile':
      return profileAgain(parts, await modelAt(parts, request.model), request);
    case 'benchmark':
      return benchmarkAgain(parts, request.options.models, request);
    case 'export':
      return exportModel(parts, [request.model]);
    default:
      throw new Error(vscode.l10n.t('“{0}” has nothing that could be changed. “Run Again” does it as it was.', oneLine(run.title)));
  }
}

/** Whether its rules say more than the questions ask. */
export function isOfPlan({ kind, options }: TensorizeRequest | QuantizeRequest): boolean {
  const rules = kind === 'tensorize' ? options.tensorize : (options.quantize ?? []);
  const more = new Set(rules.flatMap(rule => Object.entries(rule).filter(([, value]) => isGiven(value)).map(([key]) => key)));
  return rules.length > 1 || ['exclude', 'error', 'out_modes', 'rank'].some(key => more.has(key)) || (kind === 'tensorize' && (options.refit ?? []).length > 0);
}

/** The plan that asks for the same: beside the model, not saved yet, for its rules to be changed. */
export function planFor({ kind, model, options }: TensorizeRequest | QuantizeRequest): { readonly file: string; readonly text: string } {
  const place = path.dirname(model);
  const free = (number: number): string => {
    const file = path.join(place, `${path.basename(options.output)}${number === 1 ? '' : `-${number}`}${PLAN_SUFFIX}`);
    return existsSync(file) ? free(number + 1) : file;
  };
  const plan = {
    version: 1,
    model: portablePath(place, model),
    output: portablePath(place, options.output),
    ...(kind === 'tensorize' ? { tensorize: options.tensorize, ...(isGiven(options.refit) && { refit: options.refit ?? [] }) } : { quantize: options.quantize ?? [] }),
    ...(options.calibration && { calibration: options.calibration }),
    ...(options.evaluate && { evaluate: options.evaluate }),
  };
  return { file: free(1), text: `${JSON.stringify(plan, (_, value: unknown) => (value === null ? undefined : value), 2)}\n` };
}

async function openAsPlan(request: TensorizeRequest | QuantizeRequest): Promise<void> {
  const { file, text } = planFor(request);
  const document = await vscode.workspace.openTextDocument(vscode.Uri.file(file).with({ scheme: 'untitled' }));
  const edit = new vscode.WorkspaceEdit();
  edit.insert(document.uri, new vscode.Position(0, 0), text);
  await vscode.workspace.applyEdit(edit);
  await vscode.window.showTextDocument(document, { preview: false });
}

async function modelAt({ models }: ChangeParts, folder: string): Promise<Model> {
  await models.ready();
  return models.get(folder)?.model ?? openModel(folder);
}

/** The request with absolute paths of models and output. */
function absolute(run: Run): RunRequest | undefined {
  const { request, directory } = run;
  if (!request) {
    return undefined;
  }
  const [first = '', ...more] = modelsOf(run);
  const output = 'output' in request.options ? { output: requestPath(directory, request.options.output) } : {};
  const models = request.kind === 'benchmark' ? { models: [first, ...more] } : {};
  return { ...request, ...('model' in request ? { model: first } : {}), options: { ...request.options, ...output, ...models } } as RunRequest;
}

function isGiven(value: unknown): boolean {
  return value !== null && value !== undefined && !(Array.isArray(value) && value.length === 0);
}
