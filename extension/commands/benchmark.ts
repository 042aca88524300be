/** “Benchmark Models…”: from several models to a run, and the report that it fills. */
import path from 'node:path';
import * as vscode from 'vscode';
import { BENCHMARK_SUFFIX, benchmarkOutputOf, readBenchmark } from '../benchmark/read.ts';
import type { Model } from '../checkpoint/index.ts';
import { runEngine } from '../engine/command.ts';
import { isTaskList } from '../protocol/validate.js';
import type { BenchmarkOptions, BenchmarkRequest, RunRequest, TaskList } from '../protocol/types.ts';
import { withChanges } from '../runs/changes.ts';
import type { RunStore } from '../runs/store.ts';
import type { ModelList } from '../views/modelList.ts';
import { isTreeNode, modelOf } from '../views/modelNodes.ts';
import { RunNode } from '../views/runsTree.ts';
import { askBenchmark, type BenchmarkChoices, type Part, PARTS } from './benchmarkSteps.ts';
import { withConsent } from './consent.ts';
import type { EngineCommands } from './engine.ts';
import { evaluateOptions, requestBase, runRootFor, startRun } from './startRun.ts';

export interface BenchmarkParts {
  readonly context: vscode.ExtensionContext;
  readonly models: ModelList;
  readonly runs: RunStore;
  readonly engine: EngineCommands;
  readonly storage: vscode.Uri;
  readonly showReport: (file: string) => Promise<void>;
}

/** @param args of a context menu: the row, and all selected rows; or the file of a report that is to be added to; or nothing. */
export async function benchmarkModels(parts: BenchmarkParts, [clicked, selected]: readonly unknown[]): Promise<void> {
  const report = typeof clicked === 'string' && clicked.endsWith(BENCHMARK_SUFFIX) ? clicked : undefined;
  await parts.models.ready();
  const all = parts.models.entries.flatMap(({ model }) => (model ? [model] : []));
  if (all.length === 0) {
    throw new Error(vscode.l10n.t('There is no model in this window. Add one with “Bondwise: Add Model…”.'));
  }
  const rows = (Array.isArray(selected) && selected.length > 0 ? (selected as readonly unknown[]) : [clicked]).filter(isTreeNode);
  const named = new Set(rows.map(node => modelOf(node).entry.folder));
  const before = report === undefined ? undefined : await readBenchmark(report);
  const known = new Set((before?.benchmark?.models ?? []).map(model => path.resolve(path.dirname(report ?? ''), model.path)));
  const environment = await parts.engine.require();
  if (!environment) {
    return;
  }
  // Asked for while the first questions are answered; it takes seconds.
  const tasks = runEngine(environment, ['tasks'], isTaskList).catch((): TaskList => ({ tasks: [] }));
  const first = all.find(model => named.has(model.folder)) ?? all[0];
  const checked = all.filter(({ folder }) => named.has(folder) || known.has(folder));
  const choices = await askBenchmark({ models: all, checked, tasks, scope: vscode.Uri.file(first?.folder ?? '') });
  if (choices) {
    await start(parts, choices, benchmarkRequest(choices, report ?? reportFile(choices.models)));
  }
}

/** The questions again, with the answers of an earlier run. */
export async function benchmarkAgain(parts: BenchmarkParts, folders: readonly string[], before: BenchmarkRequest): Promise<void> {
  await parts.models.ready();
  for (const folder of folders) {
    await parts.models.add(folder);
  }
  const environment = await parts.engine.require();
  if (!environment) {
    return;
  }
  const { tasks: names, limit, shots, datasets, perplexity, prompts = [''], footprint = true, speed = true, training = true, chat = false, output } = before.options;
  const asked: Readonly<Record<Part, boolean>> = { perplexity: perplexity !== null, samples: prompts.length > 0, footprint, speed, training };
  const proposed: Partial<BenchmarkChoices> = {
    limit: limit === undefined ? 100 : (limit ?? undefined),
    shots: shots ?? undefined,
    datasets: datasets ?? undefined,
    parts: new Set(PARTS.filter(part => asked[part])),
    chat,
    ...(names && { tasks: names }),
  };
  const all = parts.models.entries.flatMap(({ model }) => (model ? [model] : []));
  const tasks = runEngine(environment, ['tasks'], isTaskList).catch((): TaskList => ({ tasks: [] }));
  const choices = await askBenchmark({ models: all, checked: all.filter(({ folder }) => folders.includes(folder)), tasks, scope: vscode.Uri.file(folders[0] ?? ''), proposed });
  if (choices) {
    await start(parts, choices, withChanges(before, benchmarkRequest(choices, output)));
  }
}

async function start(parts: BenchmarkParts, choices: BenchmarkChoices, asked: BenchmarkRequest): Promise<void> {
  const { output } = asked.options;
  let request: RunRequest | undefined = asked;
  for (const model of choices.models) {
    request = request && (await withConsent(parts.context, model, request));
  }
  const directory = request && (await startRun(parts.engine, parts.runs, runRootFor(output, parts.storage), request));
  if (directory !== undefined) {
    await parts.showReport(output);
  }
}

/** “Show Benchmark”: of a run, a file, or the editor in front. */
export async function showBenchmark(showReport: BenchmarkParts['showReport'], [clicked]: readonly unknown[]): Promise<void> {
  const uri = clicked instanceof vscode.Uri ? clicked : vscode.window.activeTextEditor?.document.uri;
  const file = clicked instanceof RunNode ? benchmarkOutputOf(clicked.run) : typeof clicked === 'string' ? clicked : uri?.fsPath;
  if (!file?.endsWith(BENCHMARK_SUFFIX)) {
    throw new Error(vscode.l10n.t('A report is a file that ends in {0}.', BENCHMARK_SUFFIX));
  }
  await showReport(file);
}

/** What is asked of the engine. */
export function benchmarkRequest({ models, tasks, limit, shots, datasets, parts, chat }: BenchmarkChoices, output: string): BenchmarkRequest {
  const [first, ...more] = models.map(model => model.folder);
  const scope = vscode.Uri.file(first ?? output);
  const { data, length, sequences, prompt } = evaluateOptions(scope);
  const names = models.map(model => model.name).join(', ');
  return {
    kind: 'benchmark',
    ...requestBase(vscode.l10n.t('Benchmark {0}', names), scope),
    options: {
      models: [first ?? '', ...more],
      tasks: [...tasks],
      limit: limit ?? null,
      shots: shots ?? null,
      chat,
      datasets: datasets ?? null,
      perplexity: parts.has('perplexity') ? { ...(data !== undefined && { data }), ...(length !== undefined && { length }), ...(sequences !== undefined && { sequences }) } : null,
      prompts: parts.has('samples') ? [prompt ?? 'The capital of France is'] : [],
      speed: parts.has('speed'),
      training: parts.has('training'),
      footprint: parts.has('footprint'),
      output,
    } satisfies BenchmarkOptions,
  };
}

/** Beside the first model, named by it; the engine adds to a report that is there. */
export function reportFile(models: readonly Model[]): string {
  const original = models.find(model => !model.lineage) ?? models[0];
  const folder = original?.folder ?? '';
  const parent = path.dirname(folder);
  const workspace = vscode.workspace.getWorkspaceFolder(vscode.Uri.file(parent)) ?? vscode.workspace.workspaceFolders?.[0];
  const place = vscode.workspace.getWorkspaceFolder(vscode.Uri.file(parent)) ? parent : (workspace?.uri.fsPath ?? parent);
  return path.join(place, `${path.basename(folder)}${BENCHMARK_SUFFIX}`);
}
