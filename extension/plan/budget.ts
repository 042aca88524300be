/** What a budget would give, read off the exchange curve that the planner made: in steps of a layer the plan itself is at most a little off. */
import { t } from '../l10n/text.ts';
import type { ExchangePoint, PlanResult } from '../protocol/types.ts';

export type Budget =
  | { readonly unit: 'parameters'; readonly share: number }
  | { readonly unit: 'bytes'; readonly bytes: number }
  | { readonly unit: 'perplexity'; readonly below: number };

/** Why a budget cannot be met, and what could be typed instead. */
export interface BudgetProblem {
  readonly problem: string;
  readonly remedy: string;
}

export type Exchange = Pick<PlanResult, 'exchange' | 'original_parameters' | 'original_bytes'>;

const UNITS: Readonly<Record<string, number>> = { kb: 1e3, mb: 1e6, gb: 1e9, tb: 1e12, kib: 2 ** 10, mib: 2 ** 20, gib: 2 ** 30, tib: 2 ** 40 };
const NUMBER = String.raw`(\d+\.?\d*|\.\d+)`;
const remedy = (): string => t('Type a share of the parameters (60%), a size on disk (2GB, 500MB), or a perplexity to stay below (perplexity<30).');

/** Reads `60%`, `2GB` or `perplexity<30`, as the engine does. @returns undefined for nothing typed. */
export function parseBudget(text: string): Budget | BudgetProblem | undefined {
  const typed = text.toLowerCase().replace(/\s/g, '');
  if (typed === '') {
    return undefined;
  }
  const value = (pattern: string) => new RegExp(`^${pattern}$`).exec(typed);
  const share = value(`${NUMBER}%`);
  if (share) {
    const percent = Number(share[1]);
    return percent > 0 && percent <= 100 ? { unit: 'parameters', share: percent / 100 } : { problem: t('{0} is not a share of the model.', text.trim()), remedy: t('Type more than 0% and at most 100%.') };
  }
  const size = value(`${NUMBER}([kmgt]i?b)`);
  if (size) {
    const bytes = Number(size[1]) * (UNITS[size[2] ?? ''] ?? 0);
    return bytes > 0 ? { unit: 'bytes', bytes } : { problem: t('A model needs more than no bytes.'), remedy: remedy() };
  }
  const perplexity = value(`perplexity<${NUMBER}`);
  if (perplexity) {
    const below = Number(perplexity[1]);
    return below > 1 ? { unit: 'perplexity', below } : { problem: t('A perplexity is always above 1.'), remedy: remedy() };
  }
  return { problem: t('“{0}” is not a budget.', text.trim()), remedy: remedy() };
}

/** The point of the exchange curve where a budget is met. */
export function pointAt({ exchange, original_parameters, original_bytes }: Exchange, budget: Budget): ExchangePoint | BudgetProblem {
  const [largest] = exchange;
  const smallest = exchange.at(-1);
  if (!largest || !smallest) {
    return { problem: t('The profile gives no exchange curve.'), remedy: t('Profile the model again.') };
  }
  if (budget.unit === 'perplexity') {
    return belowPerplexity(exchange, largest, smallest, budget.below);
  }
  const of = (point: ExchangePoint) => (budget.unit === 'parameters' ? point.parameters / original_parameters : point.bytes / original_bytes);
  const wanted = budget.unit === 'parameters' ? budget.share : budget.bytes / original_bytes;
  if (wanted < of(smallest)) {
    // Rounded up, so that what is proposed can be met.
    const least = `${Math.ceil((1000 * smallest.parameters) / original_parameters) / 10}%`;
    return { problem: t('The smallest possible is {0} with these exclusions.', least), remedy: t('Type at least {0}, or exclude less.', least) };
  }
  return between(exchange, point => of(point) <= wanted, (before, after) => (wanted - of(before)) / (of(after) - of(before))) ?? largest;
}

/** Whether the budget asks for less than there is. */
export function asksForNothing({ original_parameters }: Exchange, point: ExchangePoint): boolean {
  return point.parameters >= original_parameters;
}

function belowPerplexity(exchange: readonly ExchangePoint[], largest: ExchangePoint, smallest: ExchangePoint, below: number): ExchangePoint | BudgetProblem {
  const original = largest.perplexity;
  if (typeof original !== 'number') {
    return { problem: t('The profile does not say what perplexity the original model has.'), remedy: t('Type a size (60% or 2GB), or profile the perplexity.') };
  }
  if (below <= original) {
    const least = Number(original.toPrecision(3));
    return { problem: t('The original model has a perplexity of {0} on the profile’s text.', least), remedy: t('Type a perplexity above {0}.', least) };
  }
  // Of the loss, which the points lie on straight lines of; it starts at none.
  const loss = Math.log(below / original);
  return between(exchange, point => point.loss >= loss, (before, after) => (loss - before.loss) / (after.loss - before.loss)) ?? smallest;
}

/** On the line to the first point that is far enough. */
function between(exchange: readonly ExchangePoint[], isFar: (point: ExchangePoint) => boolean, shareOf: (before: ExchangePoint, after: ExchangePoint) => number): ExchangePoint | undefined {
  const at = exchange.findIndex(isFar);
  const [before, after] = [exchange[at - 1], exchange[at]];
  if (!before || !after) {
    return after;
  }
  const share = Math.min(1, Math.max(0, shareOf(before, after)));
  const mix = (low: number, high: number) => low + share * (high - low);
  const loss = mix(before.loss, after.loss);
  return {
    parameters: Math.round(mix(before.parameters, after.parameters)),
    bytes: Math.round(mix(before.bytes, after.bytes)),
    loss,
    loss_error: mix(before.loss_error, after.loss_error),
    perplexity: typeof before.perplexity === 'number' ? before.perplexity * Math.exp(loss - before.loss) : null,
  };
}
