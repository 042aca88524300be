/** Figures with as many digits as they need. Used by the webview too. */
import type { Evaluation } from '../protocol/types.ts';
import { formatNumber, formatPercent } from '../runs/format.ts';

/** `24.90 ± 0.62`, `512 ± 13`: the error with two digits, and the value as far. */
export function formatMeasured(value: number, error: number): string {
  if (!Number.isFinite(value) || !Number.isFinite(error) || error <= 0) {
    return String(Number(value.toPrecision(3)));
  }
  const decimals = Math.min(6, Math.max(0, 1 - Math.floor(Math.log10(error))));
  return `${value.toFixed(decimals)} ± ${error.toFixed(decimals)}`;
}

/** Above this a perplexity says only that the model is broken. */
const BROKEN = 10_000;

/** A perplexity after a predicted rise of the loss, in nats, and one standard error to either side: `21.3 (19.8–22.9)`. */
export function perplexityRange(original: number, loss: number, error: number): string {
  const after = (rise: number) => original * Math.exp(Math.min(Math.max(rise, 0), 600));
  return after(loss) > BROKEN ? `> ${formatNumber(BROKEN)}` : `${formatNumber(after(loss))} (${formatNumber(after(loss - error))}–${formatNumber(after(loss + error))})`;
}

/** A fraction of the original as a percentage; `99.9%` for a little less than all, which is not `100%`. */
export function formatShare(fraction: number): string {
  if (fraction > 0.99 && fraction < 1) {
    return fraction >= 0.999 ? '> 99.9%' : `${(Math.floor(fraction * 1000) / 10).toFixed(1)}%`;
  }
  return formatPercent(fraction);
}

type Speed = Pick<Evaluation, 'tokens_per_second' | 'speed_noise'>;

/** Whether two models differ by no more than the passes of one of them differ among themselves. */
export function sameSpeed(before: Speed, after: Speed): boolean {
  const noise = Math.max(before.speed_noise ?? 0, after.speed_noise ?? 0);
  return Math.abs(Math.log(after.tokens_per_second / before.tokens_per_second)) <= Math.log1p(noise);
}
