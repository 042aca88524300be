/** The training of a healing as it goes on: its events folded, and thinned, so that a run of any length can be drawn. */
import type { HealHistory, HealPlanEvent, HealStepEvent, HealValidationEvent, RunEvent } from '../protocol/types.ts';

/** Points that a chart as wide as a screen can show. */
const CAPACITY = 1024;

/** As folded: nothing is left out. */
export type History = Required<HealHistory> & { readonly width: number };

/**
 * Steps lie in buckets of `width` steps each, one point a bucket; the width doubles whenever there are too many. What a process tells anew after
 * a kill takes the place of what was told of the same and of later steps.
 */
export class HealFold {
  readonly #capacity: number;
  #plan: HealPlanEvent | undefined;
  #width = 1;
  #steps: HealStepEvent[] = [];
  readonly #validations = new Map<number, HealValidationEvent>();
  #value: History | undefined;

  constructor(capacity = CAPACITY) {
    this.#capacity = capacity;
  }

  /** The same object until an event changes it; undefined before the first. */
  get value(): History | undefined {
    if (!this.#plan && this.#steps.length === 0 && this.#validations.size === 0) {
      return undefined;
    }
    const validations = () => [...this.#validations.values()].sort((a, b) => a.step - b.step);
    return (this.#value ??= { plan: this.#plan ?? null, width: this.#width, steps: [...this.#steps], validations: validations() });
  }

  add(event: RunEvent): void {
    switch (event.type) {
      case 'heal-plan':
        this.#plan = event;
        break;
      case 'heal-step':
        this.#rewind(event.step);
        this.#put(event);
        break;
      case 'heal-validation':
        this.#validations.set(event.step, event);
        break;
      default:
        return;
    }
    this.#value = undefined;
  }

  /** Adds what `changesSince` found, or another fold's value. */
  merge({ plan, width = 1, steps = [], validations = [] }: HealHistory): void {
    this.#plan = plan ?? this.#plan;
    this.#width = Math.max(width, this.#width);
    for (const step of steps) {
      if (this.#inLast(step)) {
        this.#steps.pop();
      }
      this.#push(step);
    }
    validations.forEach(validation => this.#validations.set(validation.step, validation));
    this.#value = undefined;
  }

  #rewind(step: number): void {
    const isLater = (): boolean => (this.#steps.at(-1)?.step ?? -Infinity) >= step;
    if (!isLater()) {
      return;
    }
    while (isLater()) {
      this.#steps.pop();
    }
    for (const later of [...this.#validations.keys()].filter(key => key >= step)) {
      this.#validations.delete(later);
    }
  }

  #put(event: HealStepEvent): void {
    const last = this.#steps.at(-1);
    if (last && this.#inLast(event)) {
      this.#steps[this.#steps.length - 1] = merged(last, event, this.#steps.at(-2)?.step ?? 0);
    } else {
      this.#push(event);
    }
  }

  #push(event: HealStepEvent): void {
    this.#steps.push(event);
    while (this.#steps.length > this.#capacity) {
      this.#width *= 2;
      const before = this.#steps;
      this.#steps = [];
      before.forEach(step => this.#put(step));
    }
  }

  #inLast({ step }: HealStepEvent): boolean {
    const last = this.#steps.at(-1);
    return last !== undefined && Math.ceil(last.step / this.#width) === Math.ceil(step / this.#width);
  }
}

/** What has come since, `whole` where something went or was thinned; undefined where nothing has changed. */
export function changesSince(before: History, after: History): HealHistory | 'whole' | undefined {
  if (before === after) {
    return undefined;
  }
  // The last point may still grow.
  const settled = Math.max(0, before.steps.length - 1);
  const kept = new Set(after.validations.map(({ step }) => step));
  const isSame = after.width === before.width && after.steps.length >= before.steps.length && before.steps.slice(0, settled).every((step, i) => after.steps[i] === step);
  if (!isSame || before.validations.some(({ step }) => !kept.has(step))) {
    return 'whole';
  }
  const known = new Set([...before.steps, ...before.validations]);
  return {
    plan: after.plan,
    width: after.width,
    steps: after.steps.slice(settled).filter(step => !known.has(step)),
    validations: after.validations.filter(validation => !known.has(validation)),
  };
}

/** The best validation; the earliest of equal ones. */
export function bestOf(validations: readonly HealValidationEvent[]): HealValidationEvent | undefined {
  return validations.reduce<HealValidationEvent | undefined>((best, next) => (best && best.loss <= next.loss ? best : next), undefined);
}

/** Means over the steps of both. @param from the last step before the first of them. */
function merged(first: HealStepEvent, second: HealStepEvent, from: number): HealStepEvent {
  const [a, b] = [first.step - from, second.step - first.step];
  const mean = (key: 'loss' | 'cross_entropy' | 'gradient') => (a * first[key] + b * second[key]) / (a + b);
  const memory = { ...first.memory };
  for (const [device, bytes] of Object.entries(second.memory)) {
    memory[device] = Math.max(bytes, memory[device] ?? 0);
  }
  return {
    ...second,
    loss: mean('loss'),
    cross_entropy: mean('cross_entropy'),
    gradient: mean('gradient'),
    // All tokens of both through the time of both.
    tokens_per_second: (a + b) / (a / first.tokens_per_second + b / second.tokens_per_second),
    memory,
  };
}
