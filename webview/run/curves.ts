/** What the charts of a healing show: no DOM here, so it is tested by itself. */
import type { HealStepEvent, RunView } from '../../extension/protocol/types.ts';
import { formatBytes, formatNumber } from '../../extension/runs/format.ts';
import type { History } from '../../extension/runs/healFold.ts';
import { perplexityOf } from '../../extension/views/healText.ts';
import { t } from '../ui/l10n.ts';
import type { Plot, PlotLine } from '../ui/plot.ts';
import { formatRate, klOf, optionsOf } from './facts.ts';

/** After Okabe and Ito (2008), one set for each background. */
const COLOURS = { dark: ['#56b4e9', '#ffb454', '#2bc48f', '#e58fc0'], light: ['#0072b2', '#c25400', '#00785a', '#b4458a'] } as const;

/** A chart without the axis that all share. */
export interface Curve {
  readonly id: string;
  readonly title: string;
  readonly plot: Omit<Plot, 'x' | 'label'>;
}

/** The loss first; the others only where there is something to draw. */
export function curvesOf(run: RunView, history: History, theme: { readonly dark: boolean }): readonly Curve[] {
  const [blue, orange, green, pink] = theme.dark ? COLOURS.dark : COLOURS.light;
  const { steps } = history;
  const trend = (label: string, colour: string, value: (step: HealStepEvent) => number, text: (value: number) => string): PlotLine => ({
    label,
    colour,
    shape: undefined,
    kind: 'trend',
    points: steps.map(step => ({ x: step.step, y: value(step), text: text(value(step)) })),
  });
  const small = (id: string, title: string, line: PlotLine, format: (value: number) => string): Curve => ({ id, title, plot: { y: { title, bare: true, scale: 'linear', min: 0, ...headroom([line]), format }, lines: [line] } });
  const nats = (value: number) => t('{0} nats', formatNumber(value));
  const options = optionsOf(run);
  const devices = [...new Set(steps.flatMap(({ memory }) => Object.keys(memory)))];
  const memory = devices.map((device, index) => trend(device, [blue, orange, green, pink][index % 4] ?? blue, step => (step.memory[device] ?? 0) / 1e9, value => formatBytes(value * 1e9)));
  const kl = klOf({ loss: 0, cross_entropy: 0 }, options) === undefined ? [] : [small('kl', t('KL to the original, nats'), trend(t('KL'), green, step => klOf(step, options) ?? 0, nats), formatNumber)];
  return [
    lossOf(history, trend(t('Training'), blue, step => step.cross_entropy, nats), orange),
    ...kl,
    small('rate', t('Learning rate'), trend(t('Learning rate'), blue, step => step.learning_rate, formatRate), formatRate),
    small('speed', t('Speed, tokens per second'), trend(t('Speed'), blue, step => step.tokens_per_second, value => t('{0} tokens/s', formatNumber(value))), formatNumber),
    { id: 'memory', title: t('Memory, GB'), plot: { y: { title: t('Memory, GB'), bare: true, scale: 'linear', min: 0, ...headroom(memory), format: formatNumber }, lines: memory } },
    small('gradient', t('Gradient norm'), trend(t('Gradient norm'), pink, step => step.gradient, formatNumber), formatNumber),
  ];
}

function lossOf({ plan, validations }: History, training: PlotLine, colour: string): Curve {
  const start = validations.find(({ step }) => step === 0);
  const measured: PlotLine = {
    label: t('Validation'),
    colour,
    shape: 'circle',
    kind: 'measured',
    points: validations.map(({ step, loss }) => ({ x: step, y: loss, text: t('{0} nats, perplexity {1}', formatNumber(loss), perplexityOf(loss)) })),
  };
  const levels = [
    ...(start ? [{ y: start.loss, text: t('before healing {0}', formatNumber(start.loss)) }] : []),
    ...(typeof plan?.teacher_loss === 'number' ? [{ y: plan.teacher_loss, text: t('original {0}', formatNumber(plan.teacher_loss)) }] : []),
  ];
  // The first steps of a broken model would press the rest flat.
  const values = [...training.points.map(({ y }) => y).sort((a, b) => a - b).slice(0, Math.max(1, Math.ceil(training.points.length * 0.98))), ...measured.points.map(({ y }) => y), ...levels.map(({ y }) => y)];
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const room = 0.06 * Math.max(high - low, 0.05);
  return {
    id: 'loss',
    title: t('Loss: cross entropy, nats per token'),
    plot: { y: { title: t('Loss'), bare: true, scale: 'linear', ...(Number.isFinite(low) ? { min: Math.max(0, low - room), max: high + room } : {}), format: formatNumber }, lines: [training, measured], levels },
  };
}

function headroom(lines: readonly PlotLine[]): { readonly max?: number } {
  const most = Math.max(0, ...lines.flatMap(({ points }) => points.map(({ y }) => y)));
  return most > 0 ? { max: most * 1.1 } : {};
}
