/** NAME.benchmark.json, and the run that fills it. */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { fingerprintOf } from '../checkpoint/index.ts';
import { t } from '../l10n/text.ts';
import type { Benchmark } from '../protocol/types.ts';
import { isBenchmark } from '../protocol/validate.js';
import { isMissing, messageOf, parseJson } from '../runs/files.ts';
import { isActive, type Run } from '../runs/run.ts';

export const BENCHMARK_SUFFIX = '.benchmark.json';

export interface BenchmarkEntry {
  readonly file: string;
  readonly benchmark?: Benchmark;
  /** Why there is none, though there is a file. */
  readonly problem?: string;
  /** The run at work on it, else the last one that was. */
  readonly run?: Run;
}

/** The file that a run of kind benchmark writes; undefined for other runs. */
export function benchmarkOutputOf(run: Run): string | undefined {
  return run.request?.kind === 'benchmark' ? path.resolve(run.directory, run.request.options.output) : undefined;
}

/** What there is of a report right now: while a run fills it, what that has found; else the file; else what the last run found. */
export async function readReport(file: string, runs: readonly Run[]): Promise<BenchmarkEntry> {
  const own = runs.filter(run => benchmarkOutputOf(run) === file);
  const run = own.find(({ state }) => isActive(state)) ?? own[0];
  const found = run?.summary.benchmark;
  if (run && found && isActive(run.state)) {
    return { file, run, benchmark: found };
  }
  const saved = await readBenchmark(file);
  const benchmark = saved.benchmark ?? found;
  return { file, ...(run && { run }), ...(benchmark && { benchmark }), ...(saved.problem !== undefined && !benchmark && { problem: saved.problem }) };
}

/** Nothing at all where there is no file. */
export async function readBenchmark(file: string): Promise<{ readonly benchmark?: Benchmark; readonly problem?: string }> {
  const name = path.basename(file);
  try {
    const found = parseJson(await readFile(file, 'utf8'), name, isBenchmark);
    return 'value' in found ? { benchmark: found.value } : { problem: t('{0}. Benchmark the models again, into another file.', found.problem) };
  } catch (error) {
    return isMissing(error) ? {} : { problem: t('{0} cannot be read: {1}', name, messageOf(error)) };
  }
}

/** What is not any more as it was measured, in sentences. By configuration and headers: the engine compares the weights too, when it runs. */
export async function changedModels(file: string, { models = [] }: Benchmark): Promise<readonly string[]> {
  const notes = await Promise.all(
    models.map(async model => {
      const folder = path.resolve(path.dirname(file), model.path);
      const now = await fingerprintOf(folder).catch(() => undefined);
      if (now === undefined) {
        return [t('{0} is not at {1} any more.', model.name, model.path)];
      }
      return now === model.fingerprint ? [] : [t('{0} has changed since it was measured: these figures are of what it was. Benchmark it again.', model.name)];
    }),
  );
  return notes.flat();
}
