/** The tool that measures several models alike. */
import path from 'node:path';
import * as vscode from 'vscode';
import { benchmarkRequest, reportFile } from '../commands/benchmark.ts';
import { type BenchmarkChoices, datasetsFolder } from '../commands/benchmarkSteps.ts';
import { withConsent } from '../commands/consent.ts';
import { readBenchmark } from '../benchmark/read.ts';
import { isBenchmarkInput } from '../protocol/validate.js';
import type { BenchmarkInput, RunRequest } from '../protocol/types.ts';
import { formatBytes, formatCount, formatDuration, formatParameters } from '../runs/format.ts';
import { shortPath } from '../views/text.ts';
import { modelNamed } from './reading.ts';
import type { Tool } from './tool.ts';
import { beginAllowed, type WorkingParts } from './working.ts';

export function benchmarkTool(parts: WorkingParts): Tool<BenchmarkInput> {
  const understood = async ({ models: names, tasks = [], limit = 100, speed = true }: BenchmarkInput) => {
    const models = await Promise.all(names.map(name => modelNamed(parts.models, name)));
    const [first] = models;
    if (!first) {
      throw new Error(vscode.l10n.t('There is no model in this window. Add one with “Bondwise: Add Model…”.'));
    }
    const scope = vscode.Uri.file(first.folder);
    const chat = vscode.workspace.getConfiguration('bondwise.benchmark', scope).get<boolean>('chatTemplate', false);
    const choices: BenchmarkChoices = {
      models,
      tasks,
      limit,
      shots: undefined,
      datasets: datasetsFolder(scope),
      parts: new Set(['perplexity', 'samples', 'footprint', ...(speed ? (['speed'] as const) : [])]),
      chat,
    };
    return { first, choices, output: reportFile(models) };
  };
  return {
    name: 'bondwise_benchmark',
    isInput: isBenchmarkInput,
    working: vscode.l10n.t('Starting a run that measures models'),
    confirm: async input => {
      const { choices, output } = await understood(input);
      const { models, tasks, limit = 0, datasets } = choices;
      const items = models.length * tasks.length * limit;
      const before = await readBenchmark(output);
      const last = parts.runs.runs.find(({ request, result }) => result?.kind === 'benchmark' && request?.kind === 'benchmark' && request.options.output === output);
      return {
        title: vscode.l10n.t('Benchmark {0}?', models.map(({ name }) => name).join(', ')),
        lines: [
          models.map(({ name, parameters, bytes }) => `${name}: ${formatParameters(parameters)}, ${formatBytes(bytes)}`).join('\n\n'),
          tasks.length === 0
            ? vscode.l10n.t('No tasks: perplexity, sample text, memory and size only.')
            : vscode.l10n.t('{0} tasks ({1}) with at most {2} items each: up to {3} items in all, with data sets from {4}.', tasks.length, tasks.join(', '), limit, formatCount(items), datasets ?? 'Hugging Face'),
          ...(input.speed === false ? [] : [vscode.l10n.t('Times are taken by turns with the original.')]),
          ...(last?.result ? [vscode.l10n.t('The last run for this report took {0}.', formatDuration(last.result.seconds))] : []),
          before.benchmark
            ? vscode.l10n.t('The figures go to {0}; what it has already is not measured again.', shortPath(output))
            : vscode.l10n.t('The figures go to {0}.', shortPath(output)),
        ],
      };
    },
    run: async input => {
      const { first, choices, output } = await understood(input);
      let request: RunRequest | undefined = benchmarkRequest(choices, output);
      for (const model of choices.models) {
        request = request && (await withConsent(parts.context, model, request));
      }
      return { ...(await beginAllowed(parts, first, request)), report: path.basename(output) };
    },
  };
}
