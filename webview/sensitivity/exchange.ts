/** The exchange of size for loss that a plan is one point of. */
import type { PlanResult } from '../../extension/protocol/types.ts';
import { formatBytes, formatNumber, formatPercent } from '../../extension/runs/format.ts';
import { formatMeasured } from '../../extension/views/measured.ts';
import { LinePlot } from '../ui/chart.ts';
import { h } from '../ui/dom.ts';
import { t } from '../ui/l10n.ts';
import type { PlotPoint } from '../ui/plot.ts';
import type { Theme } from '../ui/theme.ts';

const WIDE = 3;

export class ExchangeView {
  readonly #title = h('h2', { id: 'exchange' }, t('Size and predicted quality'));
  readonly #text = h('p', { class: 'note' });
  readonly #plot = new LinePlot();
  readonly element: HTMLElement;
  readonly #pick: (share: string) => void;

  /** @param pick called with a part of the model's parameters, such as `62%`. */
  constructor(pick: (share: string) => void) {
    this.#pick = pick;
    this.element = h('section', { 'aria-labelledby': 'exchange', hidden: '' }, this.#title, this.#text, this.#plot.element);
  }

  show(plan: PlanResult | null | undefined, name: string | null | undefined, theme: Theme): void {
    this.element.hidden = !plan;
    if (!plan) {
      return;
    }
    const { predicted } = plan;
    const exchange = plan.exchange.toSorted((a, b) => a.bytes - b.bytes);
    const asPerplexity = exchange.every(({ perplexity }) => typeof perplexity === 'number');
    const base = asPerplexity ? baseOf(plan) : 0;
    const values = exchange.map(point => valueOf(point, base));
    const most = Math.max(...values);
    const points: PlotPoint[] = exchange.map((point, index) => ({
      x: point.bytes / 1e6,
      y: values[index] ?? 0,
      ...bars(point, base),
      text: pointText(asPerplexity, describe(point, base), formatPercent(point.parameters / plan.original_parameters)),
    }));
    const point = { x: plan.bytes / 1e6, y: valueOf(predicted, base), text: describe(predicted, base) };
    const colour = theme.dark ? '#56b4e9' : '#0072b2';
    const accent = theme.dark ? '#ffb454' : '#c25400';
    const size = t('{0} of {1}, {2} of the parameters', formatBytes(plan.bytes), formatBytes(plan.original_bytes), formatPercent(plan.parameters / plan.original_parameters));
    const quality = asPerplexity ? t('predicted perplexity {0}', describe(predicted, base)) : t('predicted rise of the loss {0}', describe(predicted, base));
    this.#text.textContent = t('{0}: {1}; {2}. Click a point to plan for its size.', name ?? t('The plan'), size, quality);
    const y = asPerplexity
      ? { title: t('Predicted perplexity'), scale: most / base > WIDE ? ('log' as const) : ('linear' as const), min: base * 0.97, format: formatNumber }
      : { title: t('Predicted rise of the loss, nats per token'), scale: 'linear' as const, min: 0, format: formatNumber };
    this.#plot.show(
      {
        label: `${this.#text.textContent} ${t('A curve over {0} sizes.', exchange.length)}`,
        x: { title: t('Size'), scale: 'linear', format: value => formatBytes(value * 1e6) },
        y,
        lines: [
          { label: t('This plan'), colour: accent, shape: 'rectRot', kind: 'point', points: [point] },
          { label: t('Planned'), colour, shape: 'circle', kind: 'measured', points },
        ],
        ...(asPerplexity ? { levels: [{ y: base, text: t('original') }] } : {}),
        onPick: (line, point) => {
          const picked = line === 1 ? exchange[point] : undefined;
          if (picked) {
            this.#pick(`${Number(((100 * picked.parameters) / plan.original_parameters).toPrecision(3))}%`);
          }
        },
      },
      theme,
    );
  }
}

interface Estimate {
  readonly loss: number;
  readonly loss_error: number;
  readonly perplexity?: number | null;
}

/** The original's perplexity: what rises by a factor of exp(loss). */
function baseOf({ exchange, predicted }: PlanResult): number {
  const { loss, perplexity } = predicted.perplexity ? predicted : (exchange.at(-1) ?? predicted);
  return (perplexity ?? 1) / Math.exp(loss);
}

function valueOf({ loss }: Estimate, base: number): number {
  return base > 0 ? base * Math.exp(loss) : loss;
}

function bars({ loss, loss_error }: Estimate, base: number): Pick<PlotPoint, 'low' | 'high'> {
  const at = (value: number) => (base > 0 ? base * Math.exp(value) : value);
  return loss_error > 0 ? { low: at(loss - loss_error), high: at(loss + loss_error) } : {};
}

function describe(point: Estimate, base: number): string {
  const value = valueOf(point, base);
  return base > 0 ? formatMeasured(value, value * point.loss_error) : t('{0} nats', formatMeasured(point.loss, point.loss_error));
}

function pointText(asPerplexity: boolean, value: string, kept: string): string {
  return asPerplexity ? t('perplexity {0}, {1} of the parameters', value, kept) : t('loss {0}, {1} of the parameters', value, kept);
}
