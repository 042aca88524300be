/** The arithmetic of “Heal Model…”: budgets as they are typed, and steps that suit the machine. */
import { t } from '../l10n/text.ts';
import type { HealOptions } from '../protocol/types.ts';

/** One of the three ways to say how long. */
export type HealBudget = { readonly minutes: number } | { readonly tokens: number } | { readonly epochs: number };

const MULTIPLES: Readonly<Record<string, number>> = { '': 1, k: 1e3, m: 1e6, b: 1e9, g: 1e9 };

/** `45` and `45 min` are minutes; `2 h`; `2M tokens`; `1.5 epochs`. Undefined for nothing typed. */
export function parseHealBudget(text: string): HealBudget | { readonly problem: string; readonly remedy: string } | undefined {
  const typed = text.trim().toLowerCase();
  if (typed === '') {
    return undefined;
  }
  const remedy = t('Type minutes (45), hours (2 h), tokens (2M tokens) or epochs (2 epochs).');
  const [, digits, multiple = '', unit = ''] = /^(\d+(?:\.\d+)?|\.\d+)\s*([kmbg](?=\s*t|$))?\s*([a-z]*)$/.exec(typed.replaceAll(',', '')) ?? [];
  if (digits === undefined) {
    return { problem: t('“{0}” is not a budget.', text.trim()), remedy };
  }
  const amount = Number(digits) * (MULTIPLES[multiple] ?? 1);
  if (amount <= 0) {
    return { problem: t('The budget must be more than nothing.'), remedy };
  }
  if (/^tok(en)?s?$|^t$/.test(unit) || (multiple !== '' && unit === '')) {
    return { tokens: Math.round(amount) };
  }
  if (/^ep(och)?s?$|^e$/.test(unit)) {
    return { epochs: amount };
  }
  if (/^(m|min|mins|minutes?)?$/.test(unit)) {
    return { minutes: amount };
  }
  return /^(h|hours?)$/.test(unit) ? { minutes: 60 * amount } : { problem: t('“{0}” is no unit of a budget.', unit), remedy };
}

/** `20 min`, `2 h`, `2M tokens`, `1 epoch`. */
export function budgetText(budget: HealBudget): string {
  if ('minutes' in budget) {
    const { minutes } = budget;
    return minutes >= 60 && minutes % 60 === 0 ? `${minutes / 60} h` : t('{0} min', Number(minutes.toPrecision(3)));
  }
  if ('epochs' in budget) {
    return `${budget.epochs} ${budget.epochs === 1 ? 'epoch' : 'epochs'}`;
  }
  const { tokens } = budget;
  const [scale, unit] = tokens >= 1e9 ? [1e9, 'B'] : tokens >= 1e6 ? [1e6, 'M'] : tokens >= 1e3 ? [1e3, 'K'] : [1, ''];
  return t('{0}{1} tokens', Number((tokens / scale).toPrecision(3)), unit);
}

/** What of a machine decides how large a step should be. */
export interface Machine {
  /** `cpu`, `cuda:0`, `mps`. */
  readonly device: string;
  readonly cores: number;
}

export interface Load {
  /** Parameters of the model that is healed. */
  readonly parameters: number;
  /** Parameters of the original; 0 where it is not loaded. */
  readonly original: number;
}

/**
 * Multiply-adds a second of one core: 225 to 240 tokens a second of SmolLM2-135M beside its original on two cores of an AMD EPYC with
 * instructions for bfloat16. Others are two to three times slower.
 */
const CORE_RATE = 50e9;

/** Multiply-adds per token: the model forward, and backward for what flows through it; the original forward only. */
function multiplyAdds({ parameters, original }: Load): number {
  return 2.5 * parameters + original;
}

/** Tokens a second, give or take a factor of two; undefined for devices that nothing was measured on. */
export function guessedSpeed(load: Load, { device, cores }: Machine): number | undefined {
  return device === 'cpu' ? (CORE_RATE * cores) / multiplyAdds(load) : undefined;
}

/** The speed of an earlier healing, for a model of another size. */
export function scaledSpeed(tokensPerSecond: number, before: Load, load: Load): number {
  return (tokensPerSecond * multiplyAdds(before)) / multiplyAdds(load);
}

/**
 * Seconds that a step should take on a slow machine, and seconds of training between two validations at least. Of equally many tokens more
 * and smaller steps teach more: of SmolLM2-135M at half of most layers 16,384 tokens brought the KL from 1.32 to 0.94 in steps of 256
 * tokens and to 0.96 in steps of 512 (rate 2.5e-4; at 1e-3, in steps of 512, to 1.34).
 */
const STEP = 1;
const VALIDATION = 30;

/** Shorter and smaller steps where a step of the usual size would take long; validations that leave room for steps. */
export function proposeSteps(budget: HealBudget, { device }: Pick<Machine, 'device'>, speed: number | undefined): Partial<Pick<HealOptions, 'length' | 'batch' | 'validations'>> {
  const length = 256;
  const size = device === 'cpu' && speed !== undefined ? { length, batch: Math.min(8, Math.max(1, Math.round((speed * STEP) / length))) } : {};
  const validations = 'minutes' in budget ? { validations: Math.min(10, Math.max(2, Math.round((60 * budget.minutes) / VALIDATION))) } : {};
  return { ...size, ...validations };
}

/** Tokens that a budget in minutes is worth, as far as the speed is known. */
export function tokensIn(budget: HealBudget, speed: number | undefined): number | undefined {
  return 'tokens' in budget ? budget.tokens : 'minutes' in budget && speed !== undefined ? 60 * budget.minutes * speed : undefined;
}

/** Bytes that are needed at least: both models, and what trains with its gradients and moments; activations come on top. */
export function leastMemory({ parameters, original }: Load, trained: number, { device }: Pick<Machine, 'device'>): number {
  const item = device === 'cpu' ? 4 : 2;
  return item * (parameters + original) + trained * (12 + (item < 4 ? 4 : 0));
}
