/** The scale in words and numbers, in the metric's own unit. */
import { t } from '../ui/l10n.ts';
import type { Metric } from './metrics.ts';
import { type Scale, type Tick, ticks } from '../ui/scale.ts';

const TICKS = 4;

/** A tick as it is written; the last one says so where higher values have its colour too. */
export interface Mark {
  readonly position: number;
  readonly text: string;
}

/** In the metric's own unit, from the baseline on. */
export function marks(metric: Metric, scale: Scale, baseline: number): readonly Mark[] {
  const value = (rise: number) => metric.value(rise, baseline);
  const found = ticks(scale, TICKS, value, at => metric.rise(at, baseline));
  const worse = value(scale.high) > value(scale.low) ? '≥' : '≤';
  return found.map(({ position, value: at }: Tick, index) => ({
    position,
    text: `${scale.cut && index === found.length - 1 ? `${worse} ` : ''}${metric.format(at).replace(/ nats$/, '')}`,
  }));
}

/** `Perplexity`, `Loss in nats per token`. */
export function titleOf(metric: Metric): string {
  return metric.unit === '' ? metric.name : `${metric.name}, ${metric.unit}`;
}

/** The text beside the baseline's colour. */
export function baselineText(metric: Metric, baseline: number): string {
  return metric.curve ? t('original: 0') : t('original: {0}', metric.format(baseline));
}
