/** The metric of the selected layers at all sizes: measured points with their errors, and beside them what was predicted. */
import { formatNumber, formatPercent } from '../../extension/runs/format.ts';
import { formatMeasured } from '../../extension/views/measured.ts';
import { LinePlot } from '../ui/chart.ts';
import { h } from '../ui/dom.ts';
import { t } from '../ui/l10n.ts';
import type { Plot, PlotAxis, PlotLine, PlotPoint, Shape } from '../ui/plot.ts';
import type { Theme } from '../ui/theme.ts';
import { button } from '../ui/toolkit.ts';
import type { Axis, Figures, Value } from './figures.ts';
import { facetsOf, type Trace } from './facets.ts';
import type { Shown } from './facts.ts';
import type { Grid } from '../ui/grid.ts';
import { formatFigure, isInNats, type Metric } from './metrics.ts';
import { css, viridis } from '../ui/scale.ts';

/** After Okabe and Ito (2008): told apart by colour-blind eyes; one set for each background. */
const COLOURS = {
  dark: ['#56b4e9', '#e69f00', '#2bc48f', '#f0e442', '#e58fc0', '#ff7a3d', '#9fa8ff', '#c8c8c8'],
  light: ['#0072b2', '#c25400', '#00785a', '#8f6a00', '#b4458a', '#2f8fc9', '#5b3fa8', '#555555'],
} as const;
const SHAPES: readonly Shape[] = ['circle', 'triangle', 'rect', 'rectRot', 'star', 'cross', 'crossRot', 'dash'];
const GLYPHS = ['●', '▲', '■', '◆', '✱', '✚', '✖', '▬'];
/** A perplexity axis is logarithmic where it spans more than this factor. */
const WIDE = 3;
const NOTHING_SELECTED = t('Select layers in the heatmap to see how they bend. A click on a block’s or a column’s label takes all of it.');
/** Above so many times the original's perplexity a model is of no use, whichever it is. */
const USELESS = 100;

export class CurvesView {
  readonly element: HTMLElement;
  readonly #content = h('div', {});
  readonly #legend = h('ul', { class: 'keys', 'aria-label': t('Lines') });
  readonly #plots = h('div', { class: 'plots' });
  readonly #note = h('p', { class: 'note' });
  readonly #charts: { readonly plot: LinePlot; readonly title: HTMLElement; readonly element: HTMLElement }[] = [];

  /** @param selectFigure selects the blocks of the paper's figure. */
  constructor(selectFigure: () => void) {
    const figure = button(t('Paper’s Figure'), selectFigure);
    figure.title = t('Curves of the first block, the one a sixth in, the middle one and the last');
    const headline = h('div', { class: 'headline' }, h('h2', { id: 'curves' }, t('Curves')), figure);
    this.element = h('section', { 'aria-labelledby': 'curves', tabindex: '-1' }, headline, this.#content);
  }

  show(grid: Grid, figures: Figures, selected: ReadonlySet<string>, shown: Shown, theme: Theme): void {
    const { facets, categories, left } = facetsOf(grid, selected);
    if (facets.length === 0) {
      this.#charts.splice(0).forEach(({ plot }) => plot.dispose());
      this.#plots.replaceChildren();
      this.#content.replaceChildren(h('p', { class: 'note' }, NOTHING_SELECTED));
      return;
    }
    while (this.#charts.length > facets.length) {
      const chart = this.#charts.pop();
      chart?.plot.dispose();
      chart?.element.remove();
    }
    while (this.#charts.length < facets.length) {
      const [plot, title] = [new LinePlot(), h('figcaption', {})];
      const element = h('figure', {}, title, plot.element);
      this.#charts.push({ plot, title, element });
      this.#plots.append(element);
    }
    this.#plots.classList.toggle('several', facets.length > 1);
    if (this.#plots.parentElement !== this.#content) {
      this.#content.replaceChildren(this.#legend, this.#plots, this.#note);
    }
    const all = rangeOf(figures, facets.flatMap(({ traces }) => traces), shown.metric);
    // A logarithmic axis has room for all. On another one the worst would press the rest flat.
    const own = facets.length > 1 && !isFromZero(shown.metric, figures);
    facets.forEach(({ title, traces }, index) => {
      const chart = this.#charts[index];
      if (chart) {
        chart.title.textContent = title;
        const range = own ? rangeOf(figures, traces, shown.metric) : all;
        const label = t('{0}, {1}: {2} lines. The table has the numbers.', shown.metric.name, title, traces.length);
        chart.plot.show({ ...plotOf(figures, traces, shown, range, theme), label }, theme);
      }
    });
    this.#legend.replaceChildren(...legendOf(categories, grid, theme));
    this.#note.textContent = noteOf(figures, shown.metric, own, left);
  }
}

function plotOf(figures: Figures, traces: readonly Trace[], { metric, axis, size }: Shown, y: PlotAxis, theme: Theme): Omit<Plot, 'label'> {
  const baseline = figures.baseline(metric);
  return {
    x: xAxis(axis),
    y,
    lines: traces.flatMap(trace => linesOf(figures, trace, metric, axis, y, theme)),
    ...(baseline === undefined || isFromZero(metric, figures) ? {} : { levels: [{ y: baseline, text: t('original') }] }),
    at: axis === 'keep' ? size * 100 : size,
  };
}

function linesOf(figures: Figures, { layer, label, tone }: Trace, metric: Metric, axis: Axis, y: PlotAxis, theme: Theme): readonly PlotLine[] {
  const set = theme.dark ? COLOURS.dark : COLOURS.light;
  const look =
    'category' in tone
      ? { colour: set[tone.category % set.length] ?? theme.foreground, shape: SHAPES[tone.category % SHAPES.length] ?? 'circle' }
      : { colour: depthColour(tone.depth, theme), shape: undefined };
  const predicted = predictionOf(figures, layer, metric).map(point => place(point, axis, y));
  const measured = measuredOf(figures, layer, metric).map(point => place(point, axis, y));
  return [
    ...(predicted.length === 0 ? [] : [{ label: t('{0}, predicted', label), ...look, kind: 'predicted' as const, points: sorted(predicted) }]),
    ...(measured.length === 0 ? [] : [{ label, ...look, kind: 'measured' as const, points: sorted(measured) }]),
  ];
}

interface Raw {
  readonly chi: number;
  readonly keep: number;
  readonly value: number;
  readonly error?: number;
  readonly text: string;
}

/** In the metric's unit where losses can be turned into it. */
function predictionOf(figures: Figures, layer: string, metric: Metric): readonly Raw[] {
  const whole = (values: readonly Value[]) => values.filter(({ keep }) => keep <= 1);
  if (metric.curve) {
    return whole(figures.series(layer, metric)).map(({ chi, keep, value }) => ({ chi, keep, value, text: metric.format(value) }));
  }
  const baseline = figures.baseline(metric);
  const curve = figures.curveOf(layer);
  if (!curve || baseline === undefined || (metric.id !== 'perplexity' && metric.id !== 'loss')) {
    return [];
  }
  const dense = figures.layer(layer)?.parameters ?? Infinity;
  return curve.chi.flatMap((chi, index) => {
    const keep = (curve.parameters[index] ?? Infinity) / dense;
    const value = metric.value(figures.predictedLoss(layer, chi) ?? 0, baseline);
    return keep <= 1 ? [{ chi, keep, value, text: metric.format(value) }] : [];
  });
}

/** Beside a prediction of the loss, what the loss has risen by. */
function measuredOf(figures: Figures, layer: string, metric: Metric): readonly Raw[] {
  if (!metric.curve) {
    return figures.series(layer, metric).map(({ chi, keep, value, error = 0 }) => ({ chi, keep, value, error, text: formatFigure(metric, value, error) }));
  }
  if (metric.curve !== figures.method) {
    return [];
  }
  return figures.cellsOf(layer).flatMap(cell => {
    const loss = figures.measuredLoss(cell);
    return loss ? [{ chi: cell.chi, keep: cell.keep, value: loss.rise, error: loss.error, text: t('{0} nats', formatMeasured(loss.rise, loss.error)) }] : [];
  });
}

function place({ chi, keep, value, error, text }: Raw, axis: Axis, y: PlotAxis): PlotPoint {
  const [min, max] = [y.min ?? -Infinity, y.max ?? Infinity];
  return {
    x: axis === 'keep' ? keep * 100 : chi,
    // Above the axis the line leaves the chart; it must be drawn, so it must not be infinite.
    y: Math.min(max * 1000, Math.max(min, value)),
    text,
    ...(value < min ? { cut: true } : {}),
    ...(error === undefined || error <= 0 ? {} : { low: value - error, high: value + error }),
  };
}

/** One for all charts, so that they compare. */
function rangeOf(figures: Figures, traces: readonly Trace[], metric: Metric): PlotAxis {
  const scale = figures.scale(metric);
  const baseline = figures.baseline(metric) ?? 0;
  const title = metric.unit === '' ? metric.name : `${metric.name}, ${metric.unit}`;
  const values = traces.flatMap(({ layer }) => [...predictionOf(figures, layer, metric), ...measuredOf(figures, layer, metric)].map(({ value }) => value));
  const plain = (value: number) => (isInNats(metric) ? formatNumber(value) : metric.format(value));
  const top = metric.value(scale.high, baseline);
  if (isFromZero(metric, figures)) {
    const most = Math.max(...values.filter(Number.isFinite), scale.low * 10);
    return { title, scale: 'log', min: scale.low, max: Math.min(top, most * 1.3), format: plain };
  }
  if (metric.id === 'perplexity') {
    const most = Math.min(top, baseline * USELESS, Math.max(...values, baseline * 1.02));
    return { title, scale: most / baseline > WIDE ? 'log' : 'linear', min: baseline * 0.98, max: most * 1.04, format: plain };
  }
  const most = Math.min(scale.kind === 'log' ? top : Infinity, Math.max(...values));
  return { title, scale: 'linear', ...(Number.isFinite(most) && scale.kind === 'log' ? { max: most } : {}), format: plain };
}

/** Rises from nothing over decades. */
function isFromZero(metric: Metric, figures: Figures): boolean {
  return metric.scale === 'log' && figures.baseline(metric) === 0;
}

function xAxis(axis: Axis): PlotAxis {
  return axis === 'keep'
    ? { title: t('Parameters kept'), scale: 'linear', min: 0, max: 100, format: value => formatPercent(value / 100) }
    : { title: 'χ', scale: 'log', format: value => formatNumber(value) };
}

function legendOf(categories: readonly string[] | undefined, grid: Grid, theme: Theme): readonly Node[] {
  const set = theme.dark ? COLOURS.dark : COLOURS.light;
  const entry = (colour: string, glyph: string, text: string) => {
    const mark = h('i', { class: 'glyph', 'aria-hidden': 'true' }, glyph);
    mark.style.color = colour;
    return h('li', {}, mark, text);
  };
  if (categories) {
    return categories.map((name, index) => entry(set[index % set.length] ?? '', GLYPHS[index % GLYPHS.length] ?? '●', name));
  }
  const last = grid.blocks.length - 1;
  const steps = [...new Set([0, 0.25, 0.5, 0.75, 1].map(depth => Math.round(depth * last)))];
  return steps.map(row => entry(depthColour(row / Math.max(1, last), theme), '●', t('Block {0}', grid.blocks[row] ?? '')));
}

/** Along viridis, without the end that is hard to see on the background. */
function depthColour(depth: number, { dark }: Theme): string {
  return css(viridis(dark ? 0.25 + 0.75 * depth : 0.85 * depth));
}

function noteOf(figures: Figures, metric: Metric, own: boolean, left: number): string {
  const measured = !metric.curve || (metric.curve === figures.method && (figures.profile.cells?.length ?? 0) > 0);
  const predicted = metric.curve !== undefined || metric.id === 'perplexity' || metric.id === 'loss';
  return [
    predicted ? t('Dashed: predicted.') : '',
    measured ? t('Solid: measured, with one standard error{0}.', isFromZero(metric, figures) ? t('; ▼ below the axis') : '') : '',
    own ? t('Each chart has an axis of its own.') : '',
    left > 0 ? t('{0} layers are not drawn: select fewer.', left) : '',
  ]
    .filter(Boolean)
    .join(' ');
}

function sorted(points: readonly PlotPoint[]): readonly PlotPoint[] {
  return points.toSorted((a, b) => a.x - b.x);
}
