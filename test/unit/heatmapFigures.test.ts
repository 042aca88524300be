import { describe, expect, test } from 'vitest';
import { ProfileFold } from '../../extension/profile/fold.ts';
import { layerSensitivities } from '../../extension/profile/levels.ts';
import type { Cell, Sensitivity } from '../../extension/protocol/types.ts';
import { isHostMessage } from '../../extension/protocol/validate.js';
import { contentOf, valuesOf } from '../../webview/sensitivity/content.ts';
import { spearman } from '../../webview/sensitivity/correlation.ts';
import { factsOf, lineOf, sizeText } from '../../webview/sensitivity/facts.ts';
import { Figures } from '../../webview/sensitivity/figures.ts';
import { marks } from '../../webview/sensitivity/marks.ts';
import { baselineOf, defaultMetric, formatFigure, type Metric, metricsOf, predictedAt } from '../../webview/sensitivity/metrics.ts';
import { nearestSize, readState } from '../../webview/sensitivity/state.ts';
import { makeCell, makeProfile, SMOL } from './heatmapProfile.ts';

const shape = { ...SMOL, blocks: 3 };
const full = makeProfile(shape);
const Q = 'model.layers.0.self_attn.q_proj';
const UP = 'model.layers.1.mlp.up_proj';

function metric(profile: Sensitivity, id: string): Metric {
  const found = metricsOf(profile).find(one => one.id === id);
  if (!found) {
    throw new Error(`no ${id}`);
  }
  return found;
}

function cellOf(profile: Sensitivity, layer: string, index: number): Cell {
  const found = profile.cells?.filter(cell => cell.layer === layer)[index];
  if (!found) {
    throw new Error(`no cell ${index} of ${layer}`);
  }
  return found;
}

describe('the metrics of a profile', () => {
  test('are those that it has figures of, the measured ones first', () => {
    expect(metricsOf(full).map(({ id }) => id)).toEqual(['perplexity', 'loss', 'kl', 'agreement', 'plain', 'input', 'fisher', 'error']);
    expect(metricsOf({ ...full, cells: [] }).map(({ id }) => id)).toEqual(['plain', 'input', 'fisher', 'error']);
    expect(metricsOf({ ...full, curves: [] }).map(({ id }) => id)).toEqual(['perplexity', 'loss', 'kl', 'agreement']);
    const task = { ...cellOf(full, Q, 0), figures: { 'task:arc_easy': { value: 0.6, error: 0.02 } } };
    expect(metricsOf({ ...full, cells: [task], curves: [] }).map(({ id, name }) => [id, name])).toEqual([['task:arc_easy', 'arc_easy']]);
  });

  test('start with the one that was asked for, else with what is predicted', () => {
    const first = (profile: Sensitivity) => defaultMetric(profile, metricsOf(profile)).id;
    expect(first(full)).toBe('perplexity');
    expect(first({ ...full, metric: 'kl' })).toBe('kl');
    expect(first({ ...full, metric: 'kl', cells: [] })).toBe('plain');
    expect(first({ ...full, metric: 'task:arc_easy', cells: [], curves: [] })).toBe('task:arc_easy');
  });

  test('start with the loss that the tree tells of each layer', () => {
    const predicted = { ...full, cells: [] };
    const [figures, shown] = [new Figures(predicted), defaultMetric(predicted, metricsOf(predicted))];
    const told = [...layerSensitivities(predicted)];
    expect(told.length).toBe(predicted.layers.length);
    for (const [layer, { rise, chi }] of told) {
      expect(figures.value(layer, shown, 'chi', chi)?.rise).toBe(rise);
    }
  });

  test('have the original model’s value, and count the rise from it', () => {
    const baseline = Math.exp(2.735);
    expect(baselineOf(metric(full, 'perplexity'), full)).toBeCloseTo(baseline, 10);
    expect(baselineOf(metric(full, 'kl'), full)).toBe(0);
    expect(baselineOf(metric(full, 'agreement'), full)).toBe(1);
    expect(baselineOf(metric(full, 'plain'), full)).toBe(0);
    expect(baselineOf(metric(full, 'perplexity'), { ...full, baseline: {} })).toBeUndefined();
    expect(metric(full, 'perplexity').rise(2 * baseline, baseline)).toBeCloseTo(Math.log(2), 12);
    expect(metric(full, 'agreement').rise(0.9, 1)).toBeCloseTo(0.1, 12);
    for (const one of metricsOf(full)) {
      expect(one.value(one.rise(0.7, 0.9), 0.9)).toBeCloseTo(0.7, 12);
    }
  });

  test('are written in their unit', () => {
    expect(formatFigure(metric(full, 'perplexity'), 24.9, 0.62)).toBe('24.90 ± 0.62');
    expect(formatFigure(metric(full, 'kl'), 0.1234, 0.0061)).toBe('0.1234 ± 0.0061 nats');
    expect(formatFigure(metric(full, 'agreement'), 0.912, 0.011)).toBe('91.2 ± 1.1%');
    expect(formatFigure(metric(full, 'error'), 0.25, undefined)).toBe('25%');
  });

  test('have a legend in that unit, from the baseline on', () => {
    const perplexity = metric(full, 'perplexity');
    const figures = new Figures(full);
    const scale = figures.scale(perplexity);
    const texts = marks(perplexity, scale, Math.exp(2.735)).map(({ text }) => Number(text.replace(/[≥\s]/g, '')));
    expect(texts).toEqual(texts.toSorted((a, b) => a - b));
    expect(texts[0]).toBeGreaterThan(15.4);
    const agreement = metric(full, 'agreement');
    const falling = marks(agreement, figures.scale(agreement), 1).map(({ text }) => Number.parseFloat(text));
    expect(falling).toEqual(falling.toSorted((a, b) => b - a));
  });
});

describe('a value', () => {
  const figures = new Figures(full);
  const perplexity = metric(full, 'perplexity');

  test('is the cell’s of that size, with its sizes and its error', () => {
    const cell = makeCell(full.layers[0] ?? expect.fail(), shape, 0.3);
    const loss = cell.figures.loss ?? expect.fail();
    const value = figures.value(Q, perplexity, 'keep', 0.3) ?? expect.fail();
    expect(value.value).toBeCloseTo(Math.exp(loss.value), 12);
    expect(value.error).toBeCloseTo(Math.exp(loss.value) * loss.error, 12);
    expect([value.chi, value.parameters, value.bytes, value.keep]).toEqual([94, 94 * (576 + 576 - 94), 2 * 94 * (576 + 576 - 94), (94 * (1152 - 94)) / 576 ** 2]);
    expect(value.rise).toBeCloseTo(loss.value - 2.735, 12);
  });

  test('is missing where nothing was measured, and does not borrow from a smaller size', () => {
    const part = new Figures({ ...full, cells: [cellOf(full, Q, 2)] });
    expect(part.value(Q, perplexity, 'keep', 0.3)?.chi).toBe(94);
    expect(part.value(Q, perplexity, 'keep', 0.5)).toBeUndefined();
    expect(part.value(UP, perplexity, 'keep', 0.3)).toBeUndefined();
    expect(part.value('nothing', perplexity, 'keep', 0.3)).toBeUndefined();
  });

  test('is missing while the original’s is, for nothing can be said of its rise', () => {
    expect(new Figures({ ...full, baseline: {} }).value(Q, perplexity, 'keep', 0.3)).toBeUndefined();
    expect(new Figures({ ...full, baseline: {} }).value(Q, metric(full, 'kl'), 'keep', 0.3)).toBeDefined();
  });

  test('by the other axis is that of the largest cell that is not above', () => {
    expect(figures.value(Q, perplexity, 'chi', 100)?.chi).toBe(94);
    expect(figures.value(Q, perplexity, 'chi', 94)?.chi).toBe(94);
    expect(figures.value(Q, perplexity, 'chi', 5)).toBeUndefined();
  });

  test('is noise within two standard errors of the baseline, on either side', () => {
    const noisy = (loss: number, error: number) => {
      const cell = { ...cellOf(full, Q, 0), figures: { loss: { value: 2.735 + loss, error } } };
      return new Figures({ ...full, cells: [cell] }).value(Q, metric(full, 'loss'), 'keep', 0.75)?.noise;
    };
    expect([noisy(0.019, 0.01), noisy(-0.019, 0.01), noisy(0.021, 0.01), noisy(-0.021, 0.01)]).toEqual([true, true, false, false]);
  });

  test('is predicted from the curve’s largest point that fits', () => {
    const curve = full.curves?.[0] ?? expect.fail();
    const plain = metric(full, 'plain');
    const dense = 576 * 576;
    for (const share of [0.1, 0.45, 0.9]) {
      const index = curve.parameters.findLastIndex(parameters => parameters <= share * dense);
      expect(figures.value(Q, plain, 'keep', share)).toMatchObject({ chi: curve.chi[index], value: curve.plain[index], noise: false });
    }
    expect(figures.value(Q, plain, 'keep', 0.001)).toBeUndefined();
    expect(figures.value(Q, plain, 'chi', 1_000_000)?.chi).toBe(576);
  });

  test('of a figure counts for perplexity and loss both, whichever was stored', () => {
    const cell = { ...cellOf(full, Q, 0), figures: { perplexity: { value: 20, error: 0.5 } } };
    const stored = new Figures({ ...full, baseline: { perplexity: 15 }, cells: [cell] });
    expect(stored.value(Q, metric(full, 'loss'), 'keep', 0.75)).toMatchObject({ value: Math.log(20), error: 0.025 });
    expect(stored.measuredLoss(cell)?.rise).toBeCloseTo(Math.log(20 / 15), 12);
  });
});

describe('the sizes', () => {
  test('are those that were asked for, and those of cells from before', () => {
    const figures = new Figures(full);
    const perplexity = metric(full, 'perplexity');
    expect(figures.sizes(perplexity, 'keep')).toEqual([0.1, 0.3, 0.5, 0.75]);
    const layer = full.layers[0] ?? expect.fail();
    const older = new Figures({ ...full, cells: [...(full.cells ?? []), makeCell(layer, shape, 0.2), makeCell(layer, shape, 0.125)] });
    expect(older.sizes(perplexity, 'keep')).toEqual([0.1, 0.125, 0.2, 0.3, 0.5, 0.75]);
    expect(older.value(layer.name, perplexity, 'keep', 0.125)?.chi).toBe(makeCell(layer, shape, 0.125).chi);
  });

  test('by bond dimension are those of the cells', () => {
    const cells = (full.cells ?? []).filter(({ layer }) => layer === Q || layer === UP);
    expect(new Figures({ ...full, cells }).sizes(metric(full, 'perplexity'), 'chi')).toEqual([...new Set(cells.map(({ chi }) => chi))].sort((a, b) => a - b));
  });

  test('of a prediction are steps of 5%, or the curve’s bond dimensions', () => {
    const figures = new Figures({ ...full, cells: [] });
    const shares = figures.sizes(metric(full, 'plain'), 'keep');
    expect(shares[0]).toBe(0.05);
    expect(shares.at(-1)).toBe(0.95);
    expect(shares).toContain(0.75);
    expect(figures.sizes(metric(full, 'plain'), 'chi')).toEqual([...new Set((full.curves ?? []).flatMap(({ chi }) => chi))].sort((a, b) => a - b));
  });

  test('start where the most is known, and stay while figures come in', () => {
    const half = makeProfile(shape, 0.25);
    const first = contentOf(half, {}, undefined);
    expect(first.shown.size).toBe(0.75);
    const later = contentOf(full, {}, first);
    expect(later.shown.size).toBe(0.75);
    expect(contentOf(full, {}, undefined).shown.size).toBe(0.3);
    expect(contentOf(full, { size: 0.48 }, later).shown.size).toBe(0.5);
    expect(contentOf(full, { metric: 'kl', axis: 'chi' }, later).shown).toMatchObject({ axis: 'chi', metric: { id: 'kl' } });
    expect(contentOf({ ...full, cells: [], curves: [] }, {}, undefined)).toMatchObject({ shown: { size: 0.3 }, metrics: [] });
    expect(nearestSize([], 3)).toBeUndefined();
  });

  test('are words', () => {
    expect([sizeText('keep', 0.3), sizeText('keep', 0.125), sizeText('chi', 64)]).toEqual(['30% kept', '12.5% kept', 'χ 64']);
  });
});

describe('a prediction between two points of a curve', () => {
  const curve = { layer: 'x', chi: [1, 4, 16], parameters: [1, 4, 16], error: [1, 0.5, 0], plain: [8, 2, 0], input: [], fisher: [] };

  test('is log-linear, constant beyond the ends, and not invented towards zero', () => {
    expect(predictedAt(curve, 'plain', 2)).toBeCloseTo(4, 12);
    expect(predictedAt(curve, 'plain', 4)).toBe(2);
    expect(predictedAt(curve, 'plain', 8)).toBe(2);
    expect(predictedAt(curve, 'plain', 16)).toBe(0);
    expect(predictedAt(curve, 'plain', 99)).toBe(0);
    expect(predictedAt({ ...curve, chi: [2, 4, 16] }, 'plain', 1)).toBe(8);
  });
});

describe('the rank correlation', () => {
  test('is 1 for any rising relation, −1 for a falling one', () => {
    const x = Array.from({ length: 12 }, (_, index) => index ** 3 - 40);
    expect(spearman(x, x.map(Math.atan))).toBeCloseTo(1, 12);
    expect(spearman(x, x.map(value => -value))).toBeCloseTo(-1, 12);
  });

  test('gives ties their mean rank', () => {
    // Pearson's correlation of the mean ranks, by numpy.
    expect(spearman([1, 2, 2, 3, 4, 5, 6, 7, 8, 9], [2, 1, 4, 4, 3, 7, 6, 9, 8, 8])).toBeCloseTo(0.8776799450195786, 10);
  });

  test('is not told from a few pairs, nor of a constant', () => {
    expect(spearman([1, 2, 3], [1, 2, 3])).toBeUndefined();
    expect(spearman(Array(12).fill(1), Array.from({ length: 12 }, (_, index) => index))).toBeUndefined();
  });

  test('of a profile is over all cells while it is filled, and the engine’s own when it is complete', () => {
    const growing = new Figures({ ...makeProfile(shape, 0.5), correlation: 0.123 }).correlation;
    expect(growing.cells).toBe(42);
    expect(growing.value).toBeGreaterThan(0.7);
    expect(new Figures({ ...full, correlation: 0.123 }).correlation.value).toBe(0.123);
  });
});

describe('a profile that grows in the view', () => {
  test('takes what comes, cell by cell, and keeps the other metrics of a cell', () => {
    const part = makeProfile(shape, 0.25);
    const [cell] = part.cells ?? [];
    const fold = new ProfileFold();
    fold.start(part);
    const before = fold.value;
    expect(fold.value).toBe(before);
    fold.merge({ cells: [{ ...(cell ?? expect.fail()), figures: { 'task:x': { value: 1, error: 0 } } }], baseline: { 'task:x': 0.9 } });
    expect(fold.value).not.toBe(before);
    expect(Object.keys(fold.value?.cells?.[0]?.figures ?? {})).toEqual(['loss', 'kl', 'agreement', 'task:x']);
    expect(fold.value?.cells).toHaveLength(part.cells?.length ?? 0);
    expect(fold.value?.baseline).toEqual({ loss: 2.735, 'task:x': 0.9 });
    const baseline = fold.value?.baseline;
    fold.merge({ cells: [makeCell(full.layers[5] ?? expect.fail(), shape, 0.1)] });
    expect(fold.value?.cells).toHaveLength((part.cells?.length ?? 0) + 1);
    expect(fold.value?.baseline).toBe(baseline);
  });

  test('is made of valid messages here as in the extension', () => {
    expect(isHostMessage({ type: 'sensitivity', profile: full, notes: [] })).toBe(true);
  });

  test('has a place for every layer', () => {
    const values = valuesOf(contentOf(makeProfile(shape, 0.25), { size: 0.75 }, undefined));
    expect(values).toHaveLength(21);
    expect(values.every(value => value !== undefined)).toBe(true);
  });
});

describe('what is told of a layer', () => {
  const figures = new Figures(full);
  const layer = full.layers[0] ?? expect.fail();

  test('has value and error, sizes, the other way to know, and the plan', () => {
    const facts = factsOf(figures, layer, { metric: metric(full, 'perplexity'), axis: 'keep', size: 0.3 }, 0.62);
    expect(facts.map(([name]) => name)).toEqual(['Perplexity', 'Original', 'Loss, predicted', 'Loss, measured', 'χ', 'Kept', 'Size', 'Measured on', 'Plan']);
    const text = new Map(facts);
    expect(text.get('Perplexity')).toMatch(/^\d+\.\d+ ± \d+\.\d+$/);
    expect(text.get('Kept')).toBe('30%: 99 K of 332 K parameters');
    expect(text.get('Size')).toBe('199 kB of 664 kB');
    expect(text.get('Plan')).toBe('keeps 62%');
  });

  test('beside a prediction has the measured value where there is one', () => {
    const facts = factsOf(figures, layer, { metric: metric(full, 'plain'), axis: 'chi', size: 94 }, undefined);
    expect(new Map(facts).get('χ')).toBe('90');
    expect(new Map(facts).has('Loss, measured')).toBe(false);
    const same = { ...full, curves: full.curves?.map(curve => ({ ...curve, chi: curve.chi.map(chi => (chi === 90 ? 94 : chi)) })) ?? [] };
    const beside = factsOf(new Figures(same), layer, { metric: metric(full, 'plain'), axis: 'chi', size: 94 }, undefined);
    expect(new Map(beside).get('Loss, measured')).toMatch(/^\+0\.\d+ ± 0\.\d+ nats$/);
  });

  test('says what is missing, in a line for a screen reader too', () => {
    const facts = factsOf(new Figures({ ...full, cells: [] }), layer, { metric: metric(full, 'perplexity'), axis: 'keep', size: 0.3 }, undefined);
    expect(lineOf(layer, facts)).toBe('Block 0, self_attn.q_proj, Perplexity not measured yet, Dense 576 × 576, 332 K parameters, 664 kB');
  });
});

describe('the state of the view', () => {
  test('survives, and nothing else does', () => {
    const state = { metric: 'kl', axis: 'chi', size: 64, selected: [Q], table: true, overlay: false, sort: { column: 'chi', descending: true }, scroll: { x: 1, y: 2 } };
    expect(readState(JSON.parse(JSON.stringify(state)))).toEqual(state);
    const initial = { selected: [], table: false, overlay: true, sort: { column: 'layer', descending: false }, scroll: { x: 0, y: 0 } };
    for (const stored of [undefined, null, 7, 'x', {}, { axis: 'y', size: -1, metric: 3, selected: 'a', sort: { column: 1 }, scroll: [] }]) {
      expect(readState(stored)).toEqual(initial);
    }
    expect(readState({ selected: [Q, 3] }).selected).toEqual([Q]);
  });
});
