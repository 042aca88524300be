/** What is known of one layer at one size, as words. */
import type { ProfileLayer } from '../../extension/protocol/types.ts';
import { formatBytes, formatDuration, formatNumber, formatParameters } from '../../extension/runs/format.ts';
import { formatMeasured, formatShare } from '../../extension/views/measured.ts';
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
  const plan: readonly Fact[] = keep === undefined ? [] : [['Plan', `keeps ${formatShare(keep)}`]];
  const dense: Fact = ['Dense', `${layer.shape.join(' × ')}, ${formatParameters(layer.parameters)} parameters, ${formatBytes(layer.bytes)}`];
  if (!value) {
    return [[metric.name, missing(metric)], dense, ...plan];
  }
  return [
    [metric.name, formatFigure(metric, value.value, value.error)],
    ...besides(figures, layer, metric, value),
    ['χ', bonds(value)],
    ['Kept', `${formatShare(value.keep)}: ${formatParameters(value.parameters)} of ${formatParameters(layer.parameters)} parameters`],
    ['Size', `${formatBytes(value.bytes)} of ${formatBytes(layer.bytes)}`],
    ...measuring(value),
    ...plan,
  ];
}

/** One line for a screen reader. */
export function lineOf(layer: ProfileLayer, facts: readonly Fact[]): string {
  return [`Block ${layer.block}, ${layer.column}`, ...facts.map(([name, text]) => `${name} ${text}`)].join(', ');
}

export function sizeText(axis: Axis, size: number): string {
  return axis === 'chi' ? `χ ${size}` : `${Number((size * 100).toPrecision(4))}% kept`;
}

/** The baseline, and predicted beside measured. */
function besides(figures: Figures, { name }: ProfileLayer, metric: Metric, value: Value): Fact[] {
  const found: Fact[] = [];
  const baseline = figures.baseline(metric);
  if (!metric.curve && baseline !== undefined) {
    found.push(['Original', `${metric.format(baseline)}${value.noise ? '; no difference beyond the noise' : ''}`]);
  }
  const cell = value.cell ?? figures.cellsOf(name).find(({ chi }) => chi === value.chi);
  const measured = cell && figures.measuredLoss(cell);
  const predicted = figures.predictedLoss(name, value.chi);
  if (predicted !== undefined && metric.curve !== figures.method) {
    found.push(['Loss, predicted', `+${formatNumber(predicted)} nats`]);
  }
  if (measured && metric.id !== 'loss') {
    found.push(['Loss, measured', `${measured.rise < 0 ? '' : '+'}${formatMeasured(measured.rise, measured.error)} nats`]);
  }
  return found;
}

function measuring({ cell }: Value): Fact[] {
  return cell ? [['Measured on', `${cell.sequences} ${cell.sequences === 1 ? 'sequence' : 'sequences'} in ${formatDuration(cell.seconds)}`]] : [];
}

function bonds({ bondDims, chi }: Value): string {
  return bondDims.length > 1 ? `${chi} (bonds ${bondDims.join(' · ')})` : String(chi);
}

function missing(metric: Metric): string {
  return metric.curve ? 'no prediction at this size' : 'not measured yet';
}
