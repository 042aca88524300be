/** The metrics a profile can have, each with its name, unit and what is worse. */
import { type LossKey, methodOf } from '../../extension/profile/method.ts';
import type { Curve, Figure, Sensitivity } from '../../extension/protocol/types.ts';
import { formatNumber, formatPercent } from '../../extension/runs/format.ts';
import { formatMeasured } from '../../extension/views/measured.ts';
import { t } from '../ui/l10n.ts';
import { makeScale, type Scale } from '../ui/scale.ts';

/** A list of a curve that can be shown. */
export type CurveKey = LossKey | 'error';

export interface Metric {
  readonly id: string;
  readonly name: string;
  /** What it says, in a sentence. */
  readonly hint: string;
  readonly unit: string;
  /** The list of a curve that it is; undefined where it is measured. */
  readonly curve?: CurveKey;
  readonly scale: Scale['kind'];
  /** How much worse than the baseline a value is; the scale is over rises. */
  readonly rise: (value: number, baseline: number) => number;
  /** The value of a rise: the inverse. */
  readonly value: (rise: number, baseline: number) => number;
  readonly format: (value: number) => string;
}

type Shape = Pick<Metric, 'scale' | 'rise' | 'value'>;

const DIFFERENCE: Omit<Shape, 'scale'> = { rise: (value, baseline) => value - baseline, value: (rise, baseline) => baseline + rise };
/** Perplexities differ by factors: their logarithm is the loss. */
const RATIO: Shape = { scale: 'log', rise: (value, baseline) => Math.log(value / baseline), value: (rise, baseline) => baseline * Math.exp(rise) };
const LESS_IS_WORSE: Shape = { scale: 'linear', rise: (value, baseline) => baseline - value, value: (rise, baseline) => baseline - rise };

const NATS_PER_TOKEN = t('nats per token');
const nats = (value: number) => t('{0} nats', formatNumber(value));
const PREDICTED = t('Predicted rise of the mean loss, in nats per token, when this layer alone is compressed.');

const CURVES: readonly Metric[] = [
  {
    id: 'plain',
    name: t('Predicted loss'),
    hint: `${PREDICTED} ${t('Here by plain truncation, to second order, from one calibration pass.')}`,
    curve: 'plain',
    unit: NATS_PER_TOKEN,
    scale: 'log',
    ...DIFFERENCE,
    format: nats,
  },
  {
    id: 'input',
    name: t('Predicted, input-weighted'),
    hint: `${PREDICTED} ${t('Here by a truncation that is weighted by the layer’s inputs, to second order.')}`,
    curve: 'input',
    unit: NATS_PER_TOKEN,
    scale: 'log',
    ...DIFFERENCE,
    format: nats,
  },
  {
    id: 'fisher',
    name: t('Predicted, two-sided'),
    hint: `${PREDICTED} ${t('Here by a truncation that is weighted on both sides, by its inputs and by the loss gradients at its outputs, to second order.')}`,
    curve: 'fisher',
    unit: NATS_PER_TOKEN,
    scale: 'log',
    ...DIFFERENCE,
    format: nats,
  },
  {
    id: 'error',
    name: t('Relative error'),
    hint: t('‖W − Ŵ‖ / ‖W‖ of the plain truncation, Frobenius norm: what is lost of the weights, whatever that does to the model.'),
    curve: 'error',
    unit: t('of the norm'),
    scale: 'linear',
    ...DIFFERENCE,
    format: formatPercent,
  },
];

const MEASURED: readonly Metric[] = [
  {
    id: 'perplexity',
    name: t('Perplexity'),
    hint: t('How surprised the whole model is by the text when this layer alone is compressed. Lower is better.'),
    unit: '',
    ...RATIO,
    format: formatNumber,
  },
  {
    id: 'loss',
    name: t('Loss'),
    hint: t('Mean loss of the whole model, in nats per token, when this layer alone is compressed. Its exponential is the perplexity.'),
    unit: NATS_PER_TOKEN,
    scale: 'log',
    ...DIFFERENCE,
    format: nats,
  },
  {
    id: 'kl',
    name: t('KL'),
    hint: t('KL divergence of the next-token distributions to the original model’s, in nats per token. 0 is equal.'),
    unit: NATS_PER_TOKEN,
    scale: 'log',
    ...DIFFERENCE,
    format: nats,
  },
  {
    id: 'agreement',
    name: t('Agreement'),
    hint: t('Tokens where the model still ranks the same next token first as the original does. Higher is better.'),
    unit: t('of the tokens'),
    ...LESS_IS_WORSE,
    format: formatPercent,
  },
];

/** Above this loss, in nats, a model knows nothing: guessing among all tokens costs the logarithm of the vocabulary, about 10. */
const DEAD = 10;

export function scaleOf(metric: Metric, rises: Iterable<number>): Scale {
  return makeScale(metric.scale, rises, { decades: 4, most: metric.scale === 'log' ? DEAD : Infinity });
}

/** Measured ones first, and only those that a cell has; the predicted ones where there is a curve. */
export function metricsOf(profile: Sensitivity): readonly Metric[] {
  const seen = new Set<string>();
  for (const { figures } of profile.cells ?? []) {
    for (const id in figures) {
      seen.add(id);
    }
  }
  if (seen.has('loss')) {
    seen.add('perplexity');
  }
  const tasks = [...seen].filter(id => id.startsWith('task:')).sort();
  return [...MEASURED.filter(({ id }) => seen.has(id)), ...tasks.map(taskMetric), ...(profile.curves?.length ? CURVES : [])];
}

/** The one that was asked for where it has figures, else another measured one, else the loss as the tree tells it; before there is anything, what was asked for. */
export function defaultMetric(profile: Sensitivity, metrics: readonly Metric[]): Metric {
  const asked = [...MEASURED, taskMetric(profile.metric)].find(({ id }) => id === profile.metric) ?? MEASURED[0];
  const found = metrics.find(({ id }) => id === profile.metric) ?? metrics.find(({ curve }) => !curve || curve === methodOf(profile)) ?? asked;
  if (!found) {
    throw new Error('There are metrics.');
  }
  return found;
}

/** The original model's value; undefined while it is not known. */
export function baselineOf(metric: Metric, profile: Sensitivity): number | undefined {
  if (metric.curve) {
    return 0;
  }
  const { loss, perplexity, ...rest } = profile.baseline ?? {};
  switch (metric.id) {
    case 'perplexity':
      return perplexity ?? (loss === undefined ? undefined : Math.exp(loss));
    case 'loss':
      return loss ?? (perplexity === undefined ? undefined : Math.log(perplexity));
    case 'kl':
      return rest.kl ?? 0;
    case 'agreement':
      return rest.agreement ?? 1;
    default:
      return rest[metric.id];
  }
}

/** A cell's figure by this metric; perplexity and loss stand for each other. */
export function figureOf(metric: Metric, figures: Readonly<Record<string, Figure>>): Figure | undefined {
  const own = figures[metric.id];
  const { loss, perplexity } = figures;
  if (own || metric.curve) {
    return own;
  }
  if (metric.id === 'perplexity' && loss) {
    return { value: Math.exp(loss.value), error: Math.exp(loss.value) * loss.error };
  }
  return metric.id === 'loss' && perplexity ? { value: Math.log(perplexity.value), error: perplexity.error / perplexity.value } : undefined;
}

export function isInNats({ unit }: Metric): boolean {
  return unit === NATS_PER_TOKEN;
}

/** `24.90 ± 0.62`, with the metric's unit. */
export function formatFigure(metric: Metric, value: number, error: number | undefined): string {
  if (error === undefined || error <= 0) {
    return metric.format(value);
  }
  if (metric.id === 'agreement') {
    return `${formatMeasured(value * 100, error * 100)}%`;
  }
  const text = formatMeasured(value, error);
  return isInNats(metric) ? t('{0} nats', text) : text;
}

/** Log-linear between a curve's own bond dimensions, as the planner reads it; constant beyond them. */
export function predictedAt(curve: Curve, key: CurveKey, chi: number): number {
  const values = curve[key];
  const after = curve.chi.findIndex(bond => bond >= chi);
  const high = after < 0 ? curve.chi.length - 1 : after;
  const [x1, y1] = [curve.chi[high] ?? chi, values[high] ?? 0];
  const [x0, y0] = [curve.chi[high - 1] ?? x1, values[high - 1] ?? y1];
  if (chi >= x1 || high === 0) {
    return y1;
  }
  const share = Math.log(chi / x0) / Math.log(x1 / x0);
  return y0 > 0 && y1 > 0 ? Math.exp(Math.log(y0) + share * Math.log(y1 / y0)) : y0;
}

function taskMetric(id: string): Metric {
  const name = id.replace(/^task:/, '');
  const hint = t('Score on {0} (LM Evaluation Harness) when this layer alone is compressed. Higher is better.', name);
  return { id, name, hint, unit: '', ...LESS_IS_WORSE, format: formatNumber };
}
