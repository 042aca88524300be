/** What the report tells of a benchmark: tables, differences, fronts, exports. */
import { describe, expect, test } from 'vitest';
import { BenchmarkFold } from '../../extension/benchmark/fold.ts';
import type { Benchmark, BenchmarkModel, TaskResult, Timing } from '../../extension/protocol/types.ts';
import { isBenchmark } from '../../extension/protocol/validate.js';
import { barsOf, bySize, byTime, csvOf, markdownOf, missingBaselines, noiseOf, pairedDifference, qualitiesOf, scatterOf, tablesOf } from '../../webview/report/facts.ts';
import { barsPicture, scatterPicture, stacked, ticks } from '../../webview/report/pictures.ts';
import { svgOf } from '../../webview/ui/svg.ts';

const look = { dark: true, contrast: false, background: '#000000', foreground: '#ffffff', muted: '#888888', font: 'sans-serif' };

function task(name: string, value: number, outcomes: string): TaskResult {
  const metric = { name: 'acc', filter: 'none', value, error: 0.05, higher_is_better: true };
  return { task: name, limit: 8, shots: null, chat: false, seed: 0, data: null, items: outcomes.length, available: 100, examples: 0, metric, metrics: [metric], chance: 0.5, constant: 0.6, outcomes, seconds: 1 };
}

function timing(ratio: number | null): Timing {
  return { minimum: 0.1, median: 0.101, repeats: 5, original_minimum: 0.1, original_median: 0.101, ratio, median_ratio: ratio };
}

const base = { device: 'cpu', dtype: 'float32', threads: 1, original: null, length: 256, decode_tokens: 16 };

function speedOf() {
  return { ...base, forward: timing(null), prefill: timing(null), decode: timing(null), training: timing(null) };
}

/** The first of a list that must have one. */
function first<T>(list: readonly T[] | undefined): T {
  const [found] = list ?? [];
  if (found === undefined) {
    throw new Error('the list is empty');
  }
  return found;
}

function model(name: string, bytes: number, perplexity: number, more: Partial<BenchmarkModel> = {}): BenchmarkModel {
  return {
    path: `./${name}`, name, fingerprint: name, weights: name, bytes, parameters: bytes / 2, dtypes: { BF16: bytes }, precision: 'bfloat16',
    perplexity: { data: 'builtin', value: perplexity, error: 0.5, length: 512, sequences: 8 },
    tasks: [task('boolq', 0.8, '11110111'), task('piqa', 0.55, '10100101')],
    speed: speedOf(),
    ...more,
  };
}

const original = model('original', 200, 15);
const slow = { ...speedOf(), original: 'original', forward: timing(1.4), decode: timing(0.9), training: timing(0.7) };
const small = model('small|<b>', 120, 18, { mpo_layers: 4, tasks: [task('boolq', 0.5, '11110000')], speed: slow });
const nf4 = model('nf4', 60, 17, { scheme: 'nf4', precision: 'nf4, the rest bfloat16', speed: { ...slow, forward: timing(1.1) } });
const broken = model('broken', 150, 400, { mpo_layers: 9 });
const report: Benchmark = { engine: '0.1.0', created: '2026-01-01', device: 'cpu', original: 'original', models: [original, small, nf4, broken], remarks: ['small is slower.'] };

describe('tables', () => {
  const tables = new Map(tablesOf(report).map(table => [table.id, table]));
  const cells = (id: string, name: string) => tables.get(id)?.rows.find(row => row.name === name)?.cells.map(cell => cell.text);

  test('are those of the paper, and valid as they came', () => {
    expect(isBenchmark(report)).toBe(true);
    expect([...tables.keys()]).toEqual(['size', 'quality', 'difference', 'speed']);
    expect(cells('size', 'nf4')).toEqual(['60 B', '30%', '30', 'nf4, the rest bfloat16', '–', '–']);
  });

  test('have standard errors, chance levels, and a mark where a score is no better than guessing', () => {
    expect(cells('quality', 'original')).toEqual(['15.00 ± 0.50', '80.0 ± 5.0', '55.0 ± 5.0 ≈']);
    expect(cells('quality', 'Guessing')).toEqual(['', '50.0', '50.0']);
    expect(cells('quality', 'Same answer')).toEqual(['', '60.0', '60.0']);
  });

  test('compare item by item, and only the same items', () => {
    const found = pairedDifference(first(small.tasks), first(original.tasks));
    // 1111 0000 against 1111 0111: three of eight items lost.
    expect(found?.value).toBeCloseTo(-3 / 8, 12);
    expect(found?.error).toBeCloseTo(Math.sqrt(((3 * (5 / 8) ** 2 + 5 * (3 / 8) ** 2) / 7) / 8), 12);
    expect(pairedDifference({ ...first(small.tasks), limit: 9 }, first(original.tasks))).toBeUndefined();
    expect(cells('difference', 'nf4')?.[0]).toContain('≈');
  });

  test('say when something got slower, beyond what the machine made of it', () => {
    expect(cells('speed', 'small|<b>')?.slice(0, 4)).toEqual(['1.40 ± 0.02 slower', '1', '0.90 ± 0.02', '0.70 ± 0.02']);
    expect(noiseOf({ ...timing(1), median: 0.12 })).toBeCloseTo(0.1, 12);
  });
});

describe('charts', () => {
  test('the front has what no other beats in both size and quality', () => {
    const perplexity = first(qualitiesOf(report));
    const points = scatterOf(report, perplexity, bySize);
    expect(points.filter(({ onFront }) => onFront).map(({ name }) => name)).toEqual(['original', 'nf4']);
    expect(points.map(({ kind }) => kind)).toEqual(['original', 'compressed', 'baseline', 'compressed']);
    expect(scatterOf(report, perplexity, byTime).find(({ name }) => name === 'small|<b>')?.x).toBe(1.4);
  });

  test('a quality of several tasks needs all of them', () => {
    const mean = qualitiesOf(report).find(({ id }) => id === 'mean');
    expect(mean?.of(original)?.value).toBeCloseTo(67.5, 12);
    expect(mean?.of(small)).toBeUndefined();
  });

  test('are drawn within their picture, names escaped', () => {
    const perplexity = first(qualitiesOf(report));
    const bars = barsPicture('Training step', barsOf(report, 'training'), look);
    const plot = scatterPicture({ title: 't', x: 'x', y: 'y', formatX: String, higherIsBetter: false }, scatterOf(report, perplexity, bySize), look);
    for (const scene of [bars, plot, stacked([bars, plot], look)]) {
      for (const item of scene.items) {
        const xs = item.kind === 'line' ? item.points.map(([x]) => x) : item.kind === 'box' ? [item.x, item.x + item.width] : [item.x];
        xs.forEach(x => {
          expect(x).toBeGreaterThanOrEqual(-1);
          expect(x).toBeLessThanOrEqual(scene.width + 1);
        });
      }
    }
    expect(svgOf(plot)).not.toContain('<b>');
    expect(svgOf(plot)).toContain('small|&#60;b&#62;');
  });

  test('one point, and equal points, still have a scale', () => {
    expect(ticks({ low: 0.9, high: 1.1 }).length).toBeGreaterThan(2);
    const same = [{ name: 'a', x: 1, y: 1, error: 0, kind: 'original' as const, onFront: true }];
    expect(JSON.stringify(scatterPicture({ title: 't', x: 'x', y: 'y', formatX: String, higherIsBetter: true }, same, look))).not.toContain('null');
  });

  test('a missing baseline is told', () => {
    expect(missingBaselines(report)).toContain('in int8 is not');
  });
});

describe('exports', () => {
  test('Markdown has all tables; a name makes no table and no HTML', () => {
    const text = markdownOf('two', report);
    expect(text).toContain('# Benchmark two');
    expect(text).toContain('| Model | Perplexity | boolq | piqa |\n|---|---:|---:|---:|\n| original | 15.00 ± 0.50 | 80.0 ± 5.0 | 55.0 ± 5.0 ≈ |');
    expect(text).toContain('small\\|\\<b\\>');
    expect(text).toContain('- small is slower.');
  });

  test('CSV has a row for each figure, and no formula', () => {
    const lines = csvOf({ ...report, models: [{ ...original, name: '=1+1' }] }).split('\r\n');
    expect(lines[0]).toBe('model,figure,value,error,detail');
    expect(lines).toContain("'=1+1,boolq:acc,0.8,0.05,\"8 items, 0 examples, hub\"");
    expect(lines.every(line => !line.startsWith('='))).toBe(true);
  });
});

test('a run’s events fold to the report as the engine keeps it', () => {
  const fold = new BenchmarkFold();
  const at = { seq: 1, time: '' };
  expect(fold.value).toBeUndefined();
  fold.add({ ...at, type: 'benchmark', benchmark: { ...report, models: [original] } });
  fold.add({ ...at, type: 'benchmark-model', model: small, remarks: ['a'] });
  fold.add({ ...at, type: 'benchmark-model', model: { ...small, bytes: 1 }, remarks: ['b'] });
  const { value } = fold;
  expect(value?.models?.map(({ name, bytes }) => [name, bytes])).toEqual([['original', 200], ['small|<b>', 1]]);
  expect(value?.remarks).toEqual(['b']);
  expect(fold.value).toBe(value);
});
