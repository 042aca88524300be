import { describe, expect, it } from 'vitest';
import type { HealOptions, RunView } from '../../extension/protocol/types.ts';
import { budgetText, guessedSpeed, leastMemory, parseHealBudget, proposeSteps, scaledSpeed, tokensIn } from '../../extension/plan/healing.ts';
import { HealFold, type History } from '../../extension/runs/healFold.ts';
import { describeData } from '../../extension/views/healText.ts';
import { curvesOf } from '../../webview/run/curves.ts';
import { formatRate, klOf, leadOf, stateLine, tilesOf } from '../../webview/run/facts.ts';
import { readState } from '../../webview/run/state.ts';
import { rowsOf } from '../../webview/run/rows.ts';

describe('the budget of a healing', () => {
  it.each([
    ['45', { minutes: 45 }],
    ['1.5 min', { minutes: 1.5 }],
    ['2 h', { minutes: 120 }],
    ['2M tokens', { tokens: 2e6 }],
    ['500k', { tokens: 5e5 }],
    ['1,000,000 tokens', { tokens: 1e6 }],
    ['3 epochs', { epochs: 3 }],
    ['', undefined],
  ])('%j', (text, budget) => expect(parseHealBudget(text)).toEqual(budget));

  it.each(['x', '0', '5 apples', '-3', '2 h 3'])('%j is refused with what to type', text => {
    const found = parseHealBudget(text);
    expect(found && 'remedy' in found && found.remedy).toContain('2M tokens');
  });

  it.each([
    [{ minutes: 20 }, '20 min'],
    [{ minutes: 120 }, '2 h'],
    [{ minutes: 90 }, '90 min'],
    [{ tokens: 2e6 }, '2M tokens'],
    [{ tokens: 1500 }, '1.5K tokens'],
    [{ epochs: 1 }, '1 epoch'],
  ])('%j in words, which are read as the same', (budget, text) => {
    expect(budgetText(budget)).toBe(text);
    expect(parseHealBudget(text)).toEqual(budget);
  });

  it('is turned into steps that suit the machine', () => {
    const cpu = { device: 'cpu', cores: 2 };
    const load = { parameters: 130e6, original: 134e6 };
    const speed = guessedSpeed(load, cpu);
    const { length = 0, batch = 0, validations } = proposeSteps({ minutes: 1 }, cpu, speed);
    expect((length * batch) / (speed ?? 0)).toBeLessThan(10);
    expect(validations).toBe(2);
    expect(proposeSteps({ minutes: 60 }, { device: 'cuda:0' }, undefined)).toEqual({ validations: 10 });
    expect(proposeSteps({ tokens: 1 }, { device: 'cuda:0' }, 1e5)).toEqual({});
    expect(guessedSpeed(load, { device: 'cuda:0', cores: 8 })).toBeUndefined();
    expect(scaledSpeed(100, load, { parameters: 260e6, original: 268e6 })).toBeCloseTo(50);
    expect(tokensIn({ minutes: 2 }, 100)).toBe(12_000);
    expect(tokensIn({ epochs: 1 }, 100)).toBeUndefined();
    expect(leastMemory(load, 6e6, cpu)).toBe(4 * 264e6 + 12 * 6e6);
    expect(leastMemory(load, 6e6, { device: 'cuda:0' })).toBe(2 * 264e6 + 16 * 6e6);
  });
});

const options: HealOptions = { data: [{ data: 'builtin', weight: 2 }, { data: '/a/b.jsonl', weight: 1 }], minutes: 1, distill: 0.5, learning_rate: 5e-4, length: 256, batch: 4, output: '/o' };
const time = '2026-01-01T00:00:00Z';

function view(changes: Partial<RunView> = {}): RunView {
  const request = { version: 1, kind: 'heal', created: time, title: 'Heal small', model: '/m', options } as const;
  return { directory: '/r', title: 'Heal small', state: 'running', status: { version: 1, state: 'running', updated: time, progress: { done: 1, total: 2, unit: 'tokens', eta: 65 } }, request, device: 'cpu', ...changes };
}

function history(teacher: number | null = 2): History {
  const fold = new HealFold();
  fold.add({ seq: 1, time, type: 'heal-plan', plan: { steps: 10, warmup_steps: 1, validate_every: 5, tokens_per_step: 1024, trained: 3e6, parameters: 130e6 }, prompt: 'One', teacher_loss: teacher });
  fold.add({ seq: 2, time, type: 'heal-validation', step: 0, loss: 4, best: true, sample: 'a' });
  for (let step = 1; step <= 6; step++) {
    fold.add({ seq: 3, time, type: 'heal-step', step, loss: 2, cross_entropy: 3, gradient: 1, learning_rate: 2.5e-4, tokens_per_second: 100, memory: { 'cuda:0': 2e9, 'cuda:1': 3e9 } });
  }
  fold.add({ seq: 9, time, type: 'heal-validation', step: 5, loss: 3, best: true, sample: 'b' });
  const { value } = fold;
  if (!value) {
    throw new Error('nothing was folded');
  }
  return value;
}

describe('the run panel', () => {
  const shown = (run: RunView, past: History | undefined) => Object.fromEntries(tilesOf(run, past).map(({ name, value, note }) => [name, [value, note]]));

  it('says what is trained, towards what, on what', () => {
    expect(leadOf(view(), history())).toBe(
      '3.0 M of 130 M parameters train (2.3%) · towards what the original says (50%) and the text · trained on the built-in text and b.jsonl (2:1) · steps of 4 × 256 tokens · learning rate up to 5e-4 · on cpu',
    );
    expect(describeData([{ data: 'self' }])).toBe('text that the original writes');
  });

  it('shows figures with units, by which one sees how far it has recovered', () => {
    const tiles = shown(view(), history());
    expect(tiles.Step).toEqual(['6 of 10', '6.1 K of 10 K tokens']);
    expect(tiles.Perplexity).toEqual(['54.6 → 20.1', 'the original has 7.39']);
    expect(tiles['Won back']).toEqual(['50%', 'best at step 5']);
    expect(tiles.Memory).toEqual(['3.0 GB', 'cuda:0 2.0 GB, cuda:1 3.0 GB']);
    expect(tiles['Time left']?.[0]).toBe('1 min 5 s');
    expect(shown(view(), history(null))['Won back']).toBeUndefined();
    expect(shown(view({ state: 'queued', status: null }), undefined)).toEqual({});
  });

  it('separates the KL from the mix that is trained on', () => {
    expect(klOf({ loss: 2, cross_entropy: 3 }, options)).toBeCloseTo(1);
    expect(klOf({ loss: 2, cross_entropy: 3 }, { ...options, temperature: 2 })).toBeCloseTo(0.25);
    expect(klOf({ loss: 3, cross_entropy: 3 }, { ...options, distill: 0 })).toBeUndefined();
  });

  it('draws a line a device, the original and the start as levels, and KL only where there is one', () => {
    const curves = curvesOf(view(), history(), { dark: true });
    expect(curves.map(({ id }) => id)).toEqual(['loss', 'kl', 'rate', 'speed', 'memory', 'gradient']);
    expect(curves[0]?.plot.levels?.map(({ y, text }) => [y, text])).toEqual([[4, 'before healing 4'], [2, 'original 2']]);
    expect(curves.find(({ id }) => id === 'memory')?.plot.lines.map(({ label }) => label)).toEqual(['cuda:0', 'cuda:1']);
    const alone = view({ request: { version: 1, kind: 'heal', created: time, title: '', model: '/m', options: { ...options, distill: 0 } } });
    expect(curvesOf(alone, history(null), { dark: false }).map(({ id }) => id)).not.toContain('kl');
  });

  it('has the same as a table, the latest first', () => {
    const rows = rowsOf(view(), history());
    expect(rows.map(({ step }) => step)).toEqual([6, 5, 4, 3, 2, 1, 0]);
    expect(rows[1]?.cells).toEqual(['3.000', '20.1', '3.000', '1.000', '2.5e-4', '100', '2.0 GB, 3.0 GB', '1.000']);
    expect(rows.at(-1)?.cells.slice(0, 3)).toEqual(['4.000', '54.6', '']);
  });

  it('says how it ended, and what a button has begun', () => {
    expect(stateLine(view({ stopping: true }))).toContain('the best cores are kept');
    const result = { kind: 'heal', output: '/o', stopped: 'asked', start_loss: 4, best_loss: 3, best_step: 5, steps: 6, tokens: 1, trained: 1, parameters: 2, logits_difference: 0, seconds: 61 } as const;
    expect(stateLine(view({ state: 'done', result }))).toBe('Done in 1 min 1 s: it was told to stop. The model has the cores of step 5.');
    expect(stateLine(view({ state: 'done', result: { ...result, best_step: 0 } }))).toContain('No step was better');
    expect(stateLine(view({ state: 'cancelled' }))).toContain('Resume goes on');
  });

  it('keeps the run and what was chosen, and nothing of the wrong kind', () => {
    expect(readState({ directory: '/r', table: true, step: 5 })).toEqual({ directory: '/r', table: true, step: 5 });
    for (const state of [undefined, null, 7, { directory: 7, table: 'yes', step: -1 }]) {
      expect(readState(state)).toEqual({ table: false });
    }
    expect(formatRate(5e-4)).toBe('5e-4');
    expect(formatRate(0)).toBe('0');
  });
});
