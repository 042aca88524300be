import { appendFile, mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import type { HealStepEvent, HealValidationEvent, RunEvent } from '../../extension/protocol/types.ts';
import { bestOf, changesSince, HealFold, type History } from '../../extension/runs/healFold.ts';
import { Journal } from '../../extension/runs/journal.ts';

const time = '2026-01-01T00:00:00Z';
let seq = 0;

function step(number: number, values: Partial<HealStepEvent> = {}): HealStepEvent {
  return { seq: ++seq, time, type: 'heal-step', step: number, loss: 2, cross_entropy: 3, gradient: 1, learning_rate: 1e-4, tokens_per_second: 100, memory: { cpu: 1000 }, ...values };
}

function validation(number: number, loss: number): HealValidationEvent {
  return { seq: ++seq, time, type: 'heal-validation', step: number, loss, best: false, sample: `at ${number}` };
}

const plan: RunEvent = {
  seq: 1,
  time,
  type: 'heal-plan',
  plan: { steps: 100, warmup_steps: 5, validate_every: 10, tokens_per_step: 512, trained: 10, parameters: 100 },
  prompt: 'One',
  teacher_loss: 2.5,
  teacher_sample: ' two',
};

function folded(...events: readonly RunEvent[]): History {
  const fold = new HealFold();
  events.forEach(event => fold.add(event));
  const { value } = fold;
  if (!value) {
    throw new Error('nothing was folded');
  }
  return value;
}

describe('the fold of a healing', () => {
  it('is undefined before the first event, and the same object until another comes', () => {
    const fold = new HealFold();
    expect(fold.value).toBeUndefined();
    fold.add(plan);
    const first = fold.value;
    expect(fold.value).toBe(first);
    fold.add({ seq: 2, time, type: 'warning', message: 'nothing to do with it' });
    expect(fold.value).toBe(first);
    fold.add(step(1));
    expect(fold.value).not.toBe(first);
    expect(first?.steps).toEqual([]);
  });

  it('replaces what a killed process told of the same and of later steps', () => {
    const { steps, validations } = folded(plan, step(1), step(2), step(3, { loss: 9 }), validation(3, 5), step(4), step(3, { loss: 1 }), step(5));
    expect(steps.map(({ step: number }) => number)).toEqual([1, 2, 3, 5]);
    expect(steps[2]?.loss).toBe(1);
    expect(validations).toEqual([]);
    expect(folded(validation(0, 4), step(2), validation(2, 3), step(4), validation(2, 2.9)).validations.map(({ loss }) => loss)).toEqual([4, 2.9]);
  });

  it('takes step numbers that no engine writes', () => {
    expect(folded(plan, step(0), step(0), step(-3), step(1)).steps.map(({ step: number }) => number)).toEqual([-3, 1]);
  });

  it('keeps means over steps when it thins, weighted by the steps of each event', () => {
    const fold = new HealFold(2);
    // 1 step at loss 10, 3 steps at loss 2: the mean over four steps is 4, and 4 units of work took 1 + 3/3 units of time.
    fold.add(step(1, { loss: 10, tokens_per_second: 1, memory: { cpu: 7 } }));
    fold.add(step(4, { loss: 2, tokens_per_second: 3, memory: { cpu: 5 }, learning_rate: 9 }));
    fold.add(step(8));
    expect(fold.value?.width).toBe(4);
    const [first] = fold.value?.steps ?? [];
    expect(first).toMatchObject({ step: 4, loss: 4, tokens_per_second: 2, memory: { cpu: 7 }, learning_rate: 9 });
  });

  it('holds a hundred thousand steps in a thousand points whose mean is theirs', () => {
    const fold = new HealFold();
    let sum = 0;
    const count = 100_000;
    const begun = performance.now();
    for (let number = 1; number <= count; number++) {
      const loss = 3 + Math.sin(number / 500);
      sum += loss;
      fold.add(step(number, { loss }));
    }
    const steps = fold.value?.steps ?? [];
    console.log(`100,000 step events folded in ${(performance.now() - begun).toFixed(0)} ms`);
    expect(steps.length).toBeLessThanOrEqual(1024);
    expect(steps.length).toBeGreaterThan(512);
    expect(steps.at(-1)?.step).toBe(count);
    const mean = steps.reduce((total, { step: number, loss }, i) => total + loss * (number - (steps[i - 1]?.step ?? 0)), 0) / count;
    expect(mean).toBeCloseTo(sum / count, 8);
  });

  it('is read from a journal of a hundred thousand steps without a long pause', async () => {
    const folder = await mkdtemp(path.join(os.tmpdir(), 'bondwise-heal-'));
    try {
      const file = path.join(folder, 'events.ndjson');
      for (let part = 0; part < 10; part++) {
        const lines = Array.from({ length: 10_000 }, (_, i) => JSON.stringify({ ...step(part * 10_000 + i + 1), seq: part * 10_000 + i + 1 }));
        await appendFile(file, `${lines.join('\n')}\n`);
      }
      const journal = new Journal(file);
      let [longest, before] = [0, performance.now()];
      const pulse = setInterval(() => {
        const now = performance.now();
        [longest, before] = [Math.max(longest, now - before), now];
      }, 1);
      await journal.read();
      clearInterval(pulse);
      console.log(`longest pause ${longest.toFixed(0)} ms`);
      expect(journal.problem).toBeUndefined();
      expect(journal.summary.heal?.steps.at(-1)?.step).toBe(100_000);
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  it('finds the best validation, the first of equal ones', () => {
    expect(bestOf([])).toBeUndefined();
    expect(bestOf([validation(0, 4), validation(10, 3), validation(20, 3), validation(30, 3.5)])?.step).toBe(10);
  });
});

describe('what is sent of a healing', () => {
  /** What a page holds that is told every change. */
  function follow(capacity: number, events: readonly RunEvent[], every = 1): { readonly page: History | undefined; readonly host: History | undefined; readonly whole: number; readonly points: number } {
    const host = new HealFold(capacity);
    let page = new HealFold(capacity);
    let sent: History | undefined;
    let [whole, points] = [0, 0];
    events.forEach((event, i) => {
      host.add(event);
      const now = host.value;
      if (!now || i % every !== every - 1) {
        return;
      }
      const changes = sent ? changesSince(sent, now) : 'whole';
      sent = now;
      if (changes === 'whole') {
        whole += 1;
        page = new HealFold(capacity);
        page.merge(now);
      } else if (changes) {
        points += changes.steps?.length ?? 0;
        page.merge(changes);
      }
    });
    return { page: page.value, host: sent, whole, points };
  }

  it('is only what is new, and adds up to the same', () => {
    const events = [plan, validation(0, 5), ...Array.from({ length: 50 }, (_, i) => [step(i + 1), ...(i % 10 === 9 ? [validation(i + 1, 4)] : [])]).flat()];
    const { page, host, whole, points } = follow(1024, events);
    expect(page).toEqual(host);
    expect([whole, points]).toEqual([1, 50]);
  });

  it.each([1, 3, 7])('adds up when points are thinned and steps are told again, %d events at a time', every => {
    const events = [...Array.from({ length: 300 }, (_, i) => step(i + 1, { loss: i })), ...Array.from({ length: 100 }, (_, i) => step(i + 251, { loss: -i })), validation(350, 1)];
    const { page, host, whole } = follow(16, events.slice(0, Math.floor(events.length / every) * every), every);
    expect(page).toEqual(host);
    expect(whole).toBeLessThan(12);
  });

  it('is nothing where nothing has changed', () => {
    const value = folded(plan, step(1));
    expect(changesSince(value, value)).toBeUndefined();
  });
});
