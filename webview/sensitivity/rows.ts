/** The numbers behind the picture, as rows: for the table and for CSV. No DOM here. */
import type { ProfileLayer } from '../../extension/protocol/types.ts';
import { formatBytes, formatNumber, formatParameters } from '../../extension/runs/format.ts';
import { formatMeasured, formatShare } from '../../extension/views/measured.ts';
import { t } from '../ui/l10n.ts';
import type { Column as AnyColumn } from '../ui/layerRows.ts';
import type { Figures, Value } from './figures.ts';
import type { Shown } from './facts.ts';
import { figureOf, formatFigure, type Metric } from './metrics.ts';

export interface Row {
  readonly layer: ProfileLayer;
  readonly value: Value | undefined;
  /** Rise of the loss, nats per token. */
  readonly predicted: number | undefined;
  readonly measured: { readonly rise: number; readonly error: number } | undefined;
  /** Part that the plan keeps. */
  readonly plan: number | undefined;
}

export type Column = AnyColumn<Row>;

export function rowsOf(figures: Figures, { metric, axis, size }: Shown, plan: Readonly<Record<string, number>> | undefined): readonly Row[] {
  return figures.profile.layers.map(layer => {
    const value = figures.value(layer.name, metric, axis, size);
    const cell = value && (value.cell ?? figures.cellsOf(layer.name).find(({ chi }) => chi === value.chi));
    return {
      layer,
      value,
      predicted: value && figures.predictedLoss(layer.name, value.chi),
      measured: cell && figures.measuredLoss(cell),
      plan: plan?.[layer.name],
    };
  });
}

export function columnsOf(metric: Metric, hasPlan: boolean): readonly Column[] {
  const none = '–';
  const of = (text: (value: Value) => string) => (row: Row) => (row.value ? text(row.value) : none);
  return [
    { id: 'layer', name: t('Layer'), hint: t('Module path. Press to select it.'), text: ({ layer }) => layer.name, order: ({ layer }) => layer.name },
    { id: 'metric', name: metric.name, hint: metric.hint, text: of(({ value, error }) => formatFigure(metric, value, error)), order: ({ value }) => value?.value },
    {
      id: 'noise',
      name: t('Noise'),
      hint: t('Whether the value is within two standard errors of the original model’s.'),
      text: of(({ noise, cell }) => (cell ? (noise ? t('within') : t('beyond')) : none)),
      order: ({ value }) => value?.cell && Number(value.noise),
    },
    { id: 'chi', name: 'χ', hint: t('Largest bond dimension.'), text: of(({ chi }) => String(chi)), order: ({ value }) => value?.chi },
    { id: 'keep', name: t('Kept'), hint: t('Parameters, of the dense layer’s.'), text: of(({ keep }) => formatShare(keep)), order: ({ value }) => value?.keep },
    { id: 'parameters', name: t('Parameters'), hint: t('At this size.'), text: of(({ parameters }) => formatParameters(parameters)), order: ({ value }) => value?.parameters },
    { id: 'bytes', name: t('Size'), hint: t('In the dense layer’s data type.'), text: of(({ bytes }) => formatBytes(bytes)), order: ({ value }) => value?.bytes },
    {
      id: 'predicted',
      name: t('Predicted loss'),
      hint: t('Predicted rise of the mean loss, nats per token.'),
      text: ({ predicted }) => (predicted === undefined ? none : formatNumber(predicted)),
      order: ({ predicted }) => predicted,
    },
    {
      id: 'measured',
      name: t('Measured loss'),
      hint: t('Measured rise of the mean loss ± its standard error, nats per token.'),
      text: ({ measured }) => (measured ? formatMeasured(measured.rise, measured.error) : none),
      order: ({ measured }) => measured?.rise,
    },
    {
      id: 'sequences',
      name: t('Sequences'),
      hint: t('That it was measured on.'),
      text: of(({ cell }) => (cell ? String(cell.sequences) : none)),
      order: ({ value }) => value?.cell?.sequences,
    },
    ...(hasPlan
      ? [
          {
            id: 'plan',
            name: t('Plan'),
            hint: t('Part that the plan keeps.'),
            text: ({ plan }: Row) => (plan === undefined ? t('dense') : formatShare(plan)),
            order: ({ plan }: Row) => plan ?? 1,
          },
        ]
      : []),
  ];
}

/** Every layer at every size, with all that is predicted and measured there. RFC 4180; full precision; empty where not known. */
export function csvOf(figures: Figures, { metric, axis }: Shown, metrics: readonly Metric[]): string {
  const measured = metrics.filter(({ curve }) => !curve);
  const predicted = metrics.filter(({ curve }) => curve);
  const head = [
    'layer', 'block', 'column', 'size', 'chi', 'bond_dims', 'keep', 'parameters', 'bytes',
    ...predicted.map(({ id }) => (id === 'error' ? 'relative_error' : `predicted_${id}`)),
    ...measured.flatMap(({ id }) => [id, `${id}_error`]),
    'sequences',
  ];
  const lines = figures.profile.layers.flatMap(layer =>
    figures.sizes(metric, axis).flatMap(size => {
      const value = figures.value(layer.name, metric, axis, size);
      if (!value) {
        return [];
      }
      const cell = value.cell ?? figures.cellsOf(layer.name).find(({ chi }) => chi === value.chi);
      return [
        [
          layer.name, layer.block, layer.column, size, value.chi, value.bondDims.join(' '), value.keep, value.parameters, value.bytes,
          ...predicted.map(({ curve }) => curve && figures.predictedAt(layer.name, curve, value.chi)),
          ...measured.flatMap(one => {
            const figure = cell && figureOf(one, cell.figures);
            return [figure?.value, figure?.error];
          }),
          cell?.sequences,
        ],
      ];
    }),
  );
  return [head, ...lines].map(fields => `${fields.map(csvField).join(',')}\r\n`).join('');
}

/** Text that a spreadsheet would take for a formula is kept text. */
function csvField(field: string | number | undefined): string {
  if (typeof field !== 'string') {
    return field === undefined ? '' : String(field);
  }
  const text = /^[=+\-@\t\r]/.test(field) ? `'${field}` : field;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
