/** What is known of one layer at one size, as words. */
import type { ProfileLayer } from '../../extension/protocol/types.ts';
import { formatBytes, formatDuration, formatNumber, formatParameters } from '../../extension/runs/format.ts';
import { formatMeasured, formatShare } from '../../extension/views/measured.ts';
import { t } from '../ui/l10n.ts';
import type { Axis, Figures, Value } from './figures.ts';
import { formatFigure, type Metric } from './metrics.ts';

export type Fact = readonly [name: string, text: string];

/** What is shown: the metric and the size on the slider. */
export interface Shown {
  readonly metric: Metric;
  readonly axis: Axis;
  readonly size: number;
}

export function factsOf(figures: Figures, layer: ProfileLayer, shown: Shown, keep: number | undefined): readonly Fact[] {
  const { metric, axis, size } = shown;
  const value = figures.value(layer.name, metric, axis, size);
  const plan: readonly Fact[] = keep === undefined ? [] : [[t('Plan'), t('keeps {0}', formatShare(keep))]];
  const dense: Fact = [t('Dense'), t('{0}, {1} parameters, {2}', layer.shape.join(' × '), formatParameters(layer.parameters), formatBytes(layer.bytes))];
  if (!value) {
    return [[metric.name, missing(metric)], dense, ...plan];
  }
  return [
    [metric.name, formatFigure(metric, value.value, value.error)],
    ...besides(figures, layer, metric, value),
    ['χ', bonds(value)],
    [t('Kept'), t('{0}: {1} of {2} parameters', formatShare(value.keep), formatParameters(value.parameters), formatParameters(layer.parameters))],
    [t('Size'), t('{0} of {1}', formatBytes(value.bytes), formatBytes(layer.bytes))],
    ...measuring(value),
    ...plan,
  ];
}

/** One line for a screen reader. */
export function lineOf(layer: ProfileLayer, facts: readonly Fact[]): string {
  return [t('Block {0}, {1}', layer.block, layer.column), ...facts.map(([name, text]) => `${name} ${text}`)].join(', ');
}

export function sizeText(axis: Axis, size: number): string {
  return axis === 'chi' ? `χ ${size}` : t('{0}% kept', Number((size * 100).toPrecision(4)));
}

/** The baseline, and predicted beside measured. */
function besides(figures: Figures, { name }: ProfileLayer, metric: Metric, value: Value): Fact[] {
  const found: Fact[] = [];
  const baseline = figures.baseline(metric);
  if (!metric.curve && baseline !== undefined) {
    found.push([t('Original'), `${metric.format(baseline)}${value.noise ? t('; no difference beyond the noise') : ''}`]);
  }
  const cell = value.cell ?? figures.cellsOf(name).find(({ chi }) => chi === value.chi);
  const measured = cell && figures.measuredLoss(cell);
  const predicted = figures.predictedLoss(name, value.chi);
  if (predicted !== undefined && metric.curve !== figures.method) {
    found.push([t('Loss, predicted'), t('+{0} nats', formatNumber(predicted))]);
  }
  if (measured && metric.id !== 'loss') {
    found.push([t('Loss, measured'), t('{0}{1} nats', measured.rise < 0 ? '' : '+', formatMeasured(measured.rise, measured.error))]);
  }
  return found;
}

function measuring({ cell }: Value): Fact[] {
  return cell ? [[t('Measured on'), cell.sequences === 1 ? t('1 sequence in {0}', formatDuration(cell.seconds)) : t('{0} sequences in {1}', cell.sequences, formatDuration(cell.seconds))]] : [];
}

function bonds({ bondDims, chi }: Value): string {
  return bondDims.length > 1 ? t('{0} (bonds {1})', chi, bondDims.join(' · ')) : String(chi);
}

function missing(metric: Metric): string {
  return metric.curve ? t('no prediction at this size') : t('not measured yet');
}
