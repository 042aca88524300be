/** What the report shows, from the benchmark alone: tables, chart data, texts to export. No DOM here. */
import type { Benchmark, BenchmarkModel, TaskResult, Timing } from '../../extension/protocol/types.ts';
import { formatBytes, formatCount, formatNumber } from '../../extension/runs/format.ts';
import { formatMeasured } from '../../extension/views/measured.ts';
import { t } from '../ui/l10n.ts';

/** Standard errors within which two values are not told apart; the engine's words use the same. */
export const NOISE = 2;

export interface Cell {
  readonly text: string;
  /** What a hover and a screen reader say besides. */
  readonly hint?: string;
  /** Not told apart from guessing, or from the original. */
  readonly noise?: boolean;
}

export interface Table {
  readonly id: string;
  readonly title: string;
  readonly note: string;
  readonly head: readonly string[];
  readonly rows: readonly { readonly name: string; readonly cells: readonly Cell[]; readonly isLevel?: boolean }[];
}

/** A column of the quality table: one task, asked in one way. */
export interface TaskColumn {
  readonly key: string;
  readonly label: string;
  readonly hint: string;
}

const NONE: Cell = { text: '–' };

export function modelsOf({ models = [] }: Benchmark): readonly BenchmarkModel[] {
  return models;
}

export function originalOf(benchmark: Benchmark): BenchmarkModel | undefined {
  return modelsOf(benchmark).find(({ weights }) => weights === benchmark.original);
}

/** The original, quantized as a whole by a usual scheme: what a compressed model has to be compared with. */
export function isBaseline({ scheme, mpo_layers = 0 }: BenchmarkModel): boolean {
  return (scheme === 'int8' || scheme === 'nf4') && mpo_layers === 0;
}

export function taskKey({ task, limit, shots, chat, seed, data }: TaskResult): string {
  return JSON.stringify([task, limit, shots, chat, seed, data]);
}

export function taskColumns(benchmark: Benchmark): readonly TaskColumn[] {
  const found = new Map<string, TaskResult>();
  modelsOf(benchmark).forEach(({ tasks = [] }) => tasks.forEach(task => found.has(taskKey(task)) || found.set(taskKey(task), task)));
  const all = [...found.values()];
  return all.map(task => {
    const twice = all.filter(other => other.task === task.task).length > 1;
    return { key: taskKey(task), label: twice ? `${task.task} (${task.limit ?? t('all')}${task.chat ? t(', chat') : ''})` : task.task, hint: describeTask(task) };
  });
}

/** `boolq, acc: 100 of 3270 items, 0 examples before each, chance 50%`. */
export function describeTask({ task, metric, items, available, examples = 0, chance, constant, data }: TaskResult): string {
  const how = metric.filter === undefined || metric.filter === 'none' ? metric.name : `${metric.name} (${metric.filter})`;
  const levels = [...(typeof chance === 'number' ? [t('guessing scores {0}', percent(chance))] : []), ...(typeof constant === 'number' ? [t('always the same answer {0}', percent(constant))] : [])];
  return [t('{0}, {1}: {2} of {3} items', task, how, items, available), t('{0} examples before each', examples), ...levels, ...(typeof data === 'string' ? [t('data from {0}', data)] : [])].join(', ');
}

export function taskOf({ tasks = [] }: BenchmarkModel, key: string): TaskResult | undefined {
  return tasks.find(task => taskKey(task) === key);
}

/** Whether a score is no better than guessing, or than always giving the same answer. */
export function isChance({ metric, chance, constant }: TaskResult): boolean {
  const levels = [chance, constant].filter(level => typeof level === 'number');
  return levels.length > 0 && metric.higher_is_better !== false && metric.value - Math.max(...levels) <= NOISE * (metric.error ?? 0);
}

/** Difference to the original and its standard error, item by item; undefined where the items are not the same. */
export function pairedDifference(one: TaskResult, other: TaskResult): { readonly value: number; readonly error: number } | undefined {
  const [own, theirs] = [one.outcomes, other.outcomes];
  if (typeof own !== 'string' || typeof theirs !== 'string' || own.length !== theirs.length || own.length < 2 || taskKey(one) !== taskKey(other)) {
    return undefined;
  }
  const differences = Array.from({ length: own.length }, (_, at) => Number(own[at]) - Number(theirs[at]));
  const value = differences.reduce((sum, each) => sum + each, 0) / differences.length;
  const variance = differences.reduce((sum, each) => sum + (each - value) ** 2, 0) / (differences.length - 1);
  return { value, error: Math.sqrt(variance / differences.length) };
}

/** How much of a ratio the machine may have made: half the distance of the fastest to the median, or what the medians say otherwise. */
export function noiseOf({ minimum, median, original_minimum, original_median, ratio, median_ratio }: Timing): number {
  const other = original_minimum && original_median ? original_median / original_minimum - 1 : 0;
  const apart = ratio && median_ratio ? Math.abs(ratio - median_ratio) : 0;
  return Math.max(0.02, (median / minimum - 1) / 2, other / 2, apart);
}

// --- tables ------------------------------------------------------------------------------------------------------------------------------

export function tablesOf(benchmark: Benchmark): readonly Table[] {
  return [sizes(benchmark), qualities(benchmark), differences(benchmark), speeds(benchmark)].filter(table => table !== undefined);
}

function sizes(benchmark: Benchmark): Table {
  const original = originalOf(benchmark);
  return {
    id: 'size',
    title: t('Size'),
    note: t('Weights on disk; memory is what loading and a pass take in a process of its own.'),
    head: [t('Model'), t('Size'), t('Of the original'), t('Parameters'), t('Precision'), t('Memory'), t('Load')],
    rows: modelsOf(benchmark).map(model => ({
      name: model.name,
      cells: [
        { text: formatBytes(model.bytes), hint: t('{0} bytes', formatCount(model.bytes)) },
        original ? { text: percent(model.bytes / original.bytes) } : NONE,
        { text: formatCount(model.original_parameters ?? model.parameters), ...(model.mpo_layers ? { hint: t('{0} layers are MPOs{1}', model.mpo_layers, model.healed ? t(', healed') : '') } : {}) },
        { text: model.precision },
        model.footprint ? { text: formatBytes(model.footprint.memory), hint: t('on {0}, a pass over {1} tokens', model.footprint.device, model.footprint.tokens) } : NONE,
        model.footprint ? { text: `${formatNumber(model.footprint.load_seconds)} s` } : NONE,
      ],
    })),
  };
}

function qualities(benchmark: Benchmark): Table | undefined {
  const columns = taskColumns(benchmark);
  const models = modelsOf(benchmark);
  if (columns.length === 0 && !models.some(({ perplexity }) => perplexity)) {
    return undefined;
  }
  const first = (key: string) => models.map(model => taskOf(model, key)).find(task => task !== undefined);
  const level = (name: string, of: (task: TaskResult) => number | null | undefined) => ({
    name,
    isLevel: true,
    cells: [{ text: '' }, ...columns.map(({ key }) => levelCell(first(key), of))],
  });
  const hasConstant = columns.some(({ key }) => typeof first(key)?.constant === 'number');
  return {
    id: 'quality',
    title: t('Quality'),
    note: t('± one standard error. ≈ marks a score within two standard errors of guessing, or of always giving the same answer.'),
    head: [t('Model'), t('Perplexity'), ...columns.map(({ label }) => label)],
    rows: [
      ...models.map(model => ({
        name: model.name,
        cells: [
          model.perplexity ? { text: formatMeasured(model.perplexity.value, model.perplexity.error), hint: t('on {0} × {1} tokens of {2}', model.perplexity.sequences, model.perplexity.length, model.perplexity.data) } : NONE,
          ...columns.map(({ key }) => scoreCell(taskOf(model, key))),
        ],
      })),
      ...(columns.length > 0 ? [level(t('Guessing'), ({ chance }) => chance)] : []),
      ...(hasConstant ? [level(t('Same answer'), ({ constant }) => constant)] : []),
    ],
  };
}

function differences(benchmark: Benchmark): Table | undefined {
  const original = originalOf(benchmark);
  const columns = taskColumns(benchmark);
  const rows = modelsOf(benchmark).flatMap(model => {
    if (!original || model === original) {
      return [];
    }
    const cells = columns.map(({ key }): Cell => {
      const [one, other] = [taskOf(model, key), taskOf(original, key)];
      const found = one && other && pairedDifference(one, other);
      if (!found) {
        return NONE;
      }
      const noise = Math.abs(found.value) <= NOISE * found.error;
      return { text: `${found.value > 0 ? '+' : ''}${formatMeasured(100 * found.value, 100 * found.error)}${noise ? ' ≈' : ''}`, noise, hint: noise ? t('not told apart from the original') : t('more than two standard errors') };
    });
    return cells.every(cell => cell === NONE) ? [] : [{ name: model.name, cells }];
  });
  return rows.length === 0
    ? undefined
    : {
        id: 'difference',
        title: t('Difference to the original'),
        note: t('In points, item by item on the same items, ± one standard error: surer than the difference of two scores. ≈: not told apart.'),
        head: [t('Model'), ...columns.map(({ label }) => label)],
        rows,
      };
}

function speeds(benchmark: Benchmark): Table | undefined {
  const models = modelsOf(benchmark).filter(({ speed }) => speed);
  if (models.length === 0) {
    return undefined;
  }
  return {
    id: 'speed',
    title: t('Time'),
    note: t('Of the original’s: below 1 is faster. The fastest of several, by turns with the original; ± how much the machine may have made of it.'),
    head: [t('Model'), t('Forward'), t('Prefill'), t('Decode'), t('Training step'), t('Prefill tokens/s'), t('Decode tokens/s')],
    rows: models.map(({ name, speed }) => ({
      name,
      cells: speed
        ? [
            ...[speed.forward, speed.prefill, speed.decode].map(timing => timeCell(timing)),
            speed.training ? timeCell(speed.training, speed.training_note) : { text: '–', ...(speed.training_note ? { hint: speed.training_note } : {}) },
            { text: formatNumber(speed.length / speed.prefill.minimum), hint: t('{0} tokens, {1} on {2}', speed.length, speed.dtype, speed.device) },
            { text: formatNumber(1 / speed.decode.minimum) },
          ]
        : [],
    })),
  };
}

function timeCell(timing: Timing, note?: string | null): Cell {
  const hint = t('fastest {0}, median {1} of {2}{3}{4}', milliseconds(timing.minimum), milliseconds(timing.median), timing.repeats, timing.median_ratio ? t('; ratio of the medians {0}', timing.median_ratio.toFixed(2)) : '', note ? `; ${note}` : '');
  if (typeof timing.ratio !== 'number') {
    return { text: '1', hint };
  }
  const noise = noiseOf(timing);
  return { text: `${timing.ratio.toFixed(2)} ± ${noise.toFixed(2)}${timing.ratio > 1 + noise ? ` ${t('slower')}` : ''}`, hint, noise: Math.abs(timing.ratio - 1) <= noise };
}

function scoreCell(task: TaskResult | undefined): Cell {
  if (!task) {
    return NONE;
  }
  const { metric } = task;
  const noise = isChance(task);
  const text = isShare(task) ? points(metric.value, metric.error) : formatMeasured(metric.value, metric.error ?? 0);
  return { text: noise ? `${text} ≈` : text, noise, hint: `${describeTask(task)}${noise ? t('; no better than guessing') : ''}` };
}

function levelCell(task: TaskResult | undefined, of: (task: TaskResult) => number | null | undefined): Cell {
  const level = task && of(task);
  return typeof level === 'number' ? { text: (100 * level).toFixed(1) } : { text: '' };
}

/** Accuracies are told in percent; other metrics as they are. */
function isShare({ metric }: TaskResult): boolean {
  return /^(acc|exact_match|f1|mc[12])/.test(metric.name);
}

function points(value: number, error: number | null | undefined): string {
  return typeof error === 'number' ? `${(100 * value).toFixed(1)} ± ${(100 * error).toFixed(1)}` : (100 * value).toFixed(1);
}

function percent(fraction: number): string {
  return `${(100 * fraction).toFixed(1).replace(/\.0$/, '')}%`;
}

function milliseconds(seconds: number): string {
  return t('{0} ms', formatNumber(1000 * seconds));
}

// --- charts ------------------------------------------------------------------------------------------------------------------------------

export interface Bar {
  readonly name: string;
  readonly ratio: number;
  readonly noise: number;
}

/** The paper's figures 3 and 4: training and inference time, the original's being 1. */
export function barsOf(benchmark: Benchmark, what: 'training' | 'forward' | 'decode'): readonly Bar[] {
  return modelsOf(benchmark).flatMap(({ name, speed }) => {
    const timing = speed?.[what];
    return timing ? [{ name, ratio: timing.ratio ?? 1, noise: typeof timing.ratio === 'number' ? noiseOf(timing) : 0 }] : [];
  });
}

/** What the scatter plots can show upwards. */
export interface Quality {
  readonly id: string;
  readonly name: string;
  readonly higherIsBetter: boolean;
  readonly of: (model: BenchmarkModel) => { readonly value: number; readonly error: number } | undefined;
}

export function qualitiesOf(benchmark: Benchmark): readonly Quality[] {
  const models = modelsOf(benchmark);
  const columns = taskColumns(benchmark);
  const perplexity: Quality = { id: 'perplexity', name: t('Perplexity'), higherIsBetter: false, of: model => (model.perplexity ? { value: model.perplexity.value, error: model.perplexity.error } : undefined) };
  const shares = columns.filter(({ key }) => models.some(model => isShareOf(model, key)));
  const mean: Quality = {
    id: 'mean',
    name: t('Mean of {0} tasks', shares.length),
    higherIsBetter: true,
    of: model => {
      const scores = shares.flatMap(({ key }) => taskOf(model, key)?.metric ?? []);
      const error = Math.sqrt(scores.reduce((sum, score) => sum + (score.error ?? 0) ** 2, 0)) / scores.length;
      return scores.length === shares.length ? { value: (100 * scores.reduce((sum, { value }) => sum + value, 0)) / scores.length, error: 100 * error } : undefined;
    },
  };
  const each = columns.map(
    ({ key, label }): Quality => ({
      id: key,
      name: label,
      higherIsBetter: models.map(model => taskOf(model, key)).find(Boolean)?.metric.higher_is_better !== false,
      of: model => {
        const task = taskOf(model, key);
        const scale = task && isShare(task) ? 100 : 1;
        return task && { value: scale * task.metric.value, error: scale * (task.metric.error ?? 0) };
      },
    }),
  );
  return [...(models.some(model => model.perplexity) ? [perplexity] : []), ...(shares.length > 1 ? [mean] : []), ...each];
}

function isShareOf(model: BenchmarkModel, key: string): boolean {
  const task = taskOf(model, key);
  return task !== undefined && isShare(task);
}

export interface ScatterPoint {
  readonly name: string;
  readonly x: number;
  readonly y: number;
  readonly error: number;
  readonly kind: 'original' | 'baseline' | 'compressed';
  /** No other model is at least as good in both. */
  readonly onFront: boolean;
}

/** Less is better of x; of y as the quality says. Original and equal models stand on the front together. */
export function scatterOf(benchmark: Benchmark, quality: Quality, x: (model: BenchmarkModel) => number | undefined): readonly ScatterPoint[] {
  const sign = quality.higherIsBetter ? 1 : -1;
  const found = modelsOf(benchmark).flatMap(model => {
    const [at, value] = [x(model), quality.of(model)];
    const kind = model.weights === benchmark.original ? ('original' as const) : isBaseline(model) ? ('baseline' as const) : ('compressed' as const);
    return at === undefined || value === undefined ? [] : [{ name: model.name, x: at, y: value.value, error: value.error, kind }];
  });
  const beats = (one: (typeof found)[number], other: (typeof found)[number]) => one.x <= other.x && sign * one.y >= sign * other.y && (one.x < other.x || sign * one.y > sign * other.y);
  return found.map(point => ({ ...point, onFront: !found.some(other => beats(other, point)) }));
}

export const bySize = (model: BenchmarkModel): number => model.bytes;
/** Of a forward pass, the original's being 1. */
export const byTime = ({ speed }: BenchmarkModel): number | undefined => (speed ? (speed.forward.ratio ?? 1) : undefined);

/** What is missing to judge by, in a sentence; undefined where nothing is. */
export function missingBaselines(benchmark: Benchmark): string | undefined {
  const missing = ['int8', 'nf4'].filter(scheme => !modelsOf(benchmark).some(model => isBaseline(model) && model.scheme === scheme));
  return missing.length === 0 ? undefined : t('The original in {0} is not in this report; without it the picture lacks the baseline of equal bytes.', missing.join(` ${t('and')} `));
}

// --- exports -----------------------------------------------------------------------------------------------------------------------------

export function markdownOf(name: string, benchmark: Benchmark): string {
  const { harness, machine = '', device, remarks = [] } = benchmark;
  const head = t('Measured with Bondwise {0}{1} on {2} ({3}).', benchmark.engine, harness ? t(', LM Evaluation Harness {0}', harness) : '', machine, device);
  const tables = tablesOf(benchmark).map(({ title, note, head: [first = '', ...names], rows }) => {
    const line = (cells: readonly string[]) => `| ${cells.map(plainCell).join(' | ')} |`;
    return [`## ${title}`, '', note, '', line([first, ...names]), `|---|${names.map(() => '---:|').join('')}`, ...rows.map(row => line([row.name, ...row.cells.map(cell => cell.text)]))].join('\n');
  });
  const tasks = taskColumns(benchmark).map(({ hint }) => `- ${plainCell(hint)}`);
  const samples = modelsOf(benchmark).flatMap(model => (model.samples ?? []).map(({ prompt, text }) => `- **${plainCell(model.name)}**: ${plainCell(prompt)}${plainCell(text)}`));
  return [
    `# ${t('Benchmark {0}', plainCell(name))}`,
    head,
    ...(remarks.length > 0 ? [remarks.map(remark => `- ${plainCell(remark)}`).join('\n')] : []),
    ...tables,
    ...(tasks.length > 0 ? [`## ${t('Tasks')}\n\n${tasks.join('\n')}`] : []),
    ...(samples.length > 0 ? [`## ${t('What they write')}\n\n${samples.join('\n')}`] : []),
    '',
  ].join('\n\n');
}

/** Names come from folders: no table, link or HTML may come of them. */
function plainCell(text: string): string {
  return text.replace(/\s+/g, ' ').replace(/[\\|`*_[\]<>]/g, character => `\\${character}`);
}

/** One row a model and figure, so that nothing has to be parsed out of a cell. */
export function csvOf(benchmark: Benchmark): string {
  const lines: (readonly (string | number)[])[] = [['model', 'figure', 'value', 'error', 'detail']];
  for (const model of modelsOf(benchmark)) {
    const add = (figure: string, value: number | null | undefined, error?: number | null, detail = '') =>
      typeof value === 'number' && lines.push([model.name, figure, value, error ?? '', detail]);
    add('bytes', model.bytes);
    add('parameters', model.original_parameters ?? model.parameters, undefined, model.precision);
    add('memory_bytes', model.footprint?.memory, undefined, model.footprint?.device);
    add('load_seconds', model.footprint?.load_seconds);
    add('perplexity', model.perplexity?.value, model.perplexity?.error, model.perplexity?.data);
    for (const task of model.tasks ?? []) {
      task.metrics.forEach(({ name, filter, value, error }) => add(`${task.task}:${name}${filter && filter !== 'none' ? `:${filter}` : ''}`, value, error, `${task.items} items, ${task.examples ?? 0} examples, ${task.data ?? 'hub'}`));
      add(`${task.task}:chance`, task.chance);
    }
    const { speed } = model;
    for (const what of ['forward', 'prefill', 'decode', 'training'] as const) {
      const timing = speed?.[what];
      add(`${what}_seconds`, timing?.minimum, undefined, `median ${timing?.median ?? ''}`);
      add(`${what}_ratio`, timing?.ratio, timing && noiseOf(timing));
    }
  }
  return lines.map(line => line.map(quoted).join(',')).join('\r\n') + '\r\n';
}

function quoted(value: string | number): string {
  // A cell that a spreadsheet would take for a formula is made text.
  const text = typeof value === 'number' ? String(value) : value.replace(/^(?=[=+\-@\t\r])/, "'");
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
