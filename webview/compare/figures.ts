/** What the panel says about two models, as plain text: no DOM here, so it is tested by itself. */
import type { CompareData, CompareSide, Evaluation, HealResult, LayerFigures } from '../../extension/protocol/types.ts';
import { formatBytes, formatCount, formatNumber, formatParameters, formatPercent } from '../../extension/runs/format.ts';
import { perplexityOf } from '../../extension/views/healText.ts';
import { formatMeasured, perplexityRange, sameSpeed } from '../../extension/views/measured.ts';
import { t } from '../ui/l10n.ts';

export interface FigureRow {
  readonly name: string;
  /** What the figure means, for the row's tooltip. */
  readonly hint: string;
  readonly original: string;
  readonly compressed: string;
  /** Where the folder was healed. */
  readonly healed?: string;
  readonly change: string;
  /** Whether the change is what one hopes for; undefined where it is neither. */
  readonly good?: boolean;
}

/** One row a figure; the measured ones only where they were measured. The change is from the original to what the folder holds now. */
export function figureRows(data: CompareData): readonly FigureRow[] {
  const { original, compressed } = data;
  const healed = data.healed ?? undefined;
  const now = healed ?? compressed;
  const before = original.evaluation;
  const after = now.evaluation;
  const sides = (text: (side: CompareSide) => string): Pick<FigureRow, 'original' | 'compressed' | 'healed'> => ({ original: text(original), compressed: text(compressed), ...(healed && { healed: text(healed) }) });
  const measured = (text: (evaluation: Evaluation) => string) => sides(({ evaluation }) => (evaluation ? text(evaluation) : '–'));
  const ofOthers = (text: (evaluation: Evaluation) => string | undefined) => ({ ...measured(evaluation => text(evaluation) ?? '–'), original: '–', change: '' });
  const has = (key: 'kl' | 'agreement') => [compressed, now].some(({ evaluation }) => typeof evaluation?.[key] === 'number');
  return [
    {
      name: t('Parameters'),
      hint: t('Stored weights of the model. A tensorized layer has besides an index for each column of its cores, which counts as bytes only.'),
      ...sides(({ parameters }) => formatParameters(parameters)),
      ...changeOf(original.parameters, now.parameters, 'less'),
    },
    {
      name: t('Size'),
      hint: t('Bytes of all tensors on disk.'),
      ...sides(({ bytes }) => formatBytes(bytes)),
      ...changeOf(original.bytes, now.bytes, 'less'),
    },
    ...(before && after
      ? [{ name: t('Perplexity'), hint: t('How surprised the model is by text it has not seen, ± standard error. Lower is better.'), ...measured(withError), ...perplexityChange(before, after) }]
      : []),
    ...(before && after && data.predicted
      ? [
          {
            name: t('Predicted perplexity'),
            hint: t('What the plan expected on this text; in brackets, one standard error to either side.'),
            ...sides(() => '–'),
            compressed: perplexityRange(before.perplexity, data.predicted.loss, data.predicted.loss_error),
            change: '',
          },
        ]
      : []),
    ...(data.healing ? [heldBackRow(data.healing)] : []),
    ...(before && after
      ? [
          {
            name: t('Tokens per second'),
            hint: t('Forward pass over full sequences, on the device of the run; the models by turns. “Same” is a difference below the noise of the machine.'),
            ...measured(({ tokens_per_second }) => formatNumber(tokens_per_second)),
            ...speedChange(before, after),
          },
        ]
      : []),
    ...(has('kl')
      ? [{ name: t('KL divergence'), hint: t('How far the predicted distributions are from the original’s, in nats per token. 0 is equal.'), ...ofOthers(({ kl }) => (typeof kl === 'number' ? t('{0} nats', formatNumber(kl)) : undefined)) }]
      : []),
    ...(has('agreement')
      ? [{ name: t('Same first choice'), hint: t('Tokens where both models rank the same next token first.'), ...ofOthers(({ agreement }) => (typeof agreement === 'number' ? formatPercent(agreement) : undefined)) }]
      : []),
  ];
}

/** The validations of the healing itself: another text, and there also where nothing was measured. */
function heldBackRow({ teacher_loss, start_loss, best_loss, best_step }: HealResult): FigureRow {
  return {
    name: t('Perplexity, healing’s text'),
    hint: t('On the part of the healing’s data that was held back. Healed is the model of step {0}.', formatCount(best_step)),
    original: typeof teacher_loss === 'number' ? perplexityOf(teacher_loss) : '–',
    compressed: perplexityOf(start_loss),
    healed: perplexityOf(best_loss),
    ...(typeof teacher_loss === 'number' ? changeOf(Math.exp(teacher_loss), Math.exp(best_loss), 'less') : { change: '' }),
  };
}

/** `−19%`, `+150%`, `×38.2`, `same`. */
export function changeOf(before: number, after: number, better: 'less' | 'more'): { readonly change: string; readonly good?: boolean } {
  const ratio = after / before;
  if (!Number.isFinite(ratio)) {
    return { change: '' };
  }
  if (Math.abs(ratio - 1) < 0.0005) {
    return { change: t('same') };
  }
  const change = ratio >= 4 ? `×${formatNumber(ratio)}` : ratio > 1 ? `+${formatPercent(ratio - 1)}` : `−${formatPercent(1 - ratio)}`;
  return { change, good: ratio < 1 === (better === 'less') };
}

export interface Column {
  readonly id: string;
  readonly name: string;
  readonly hint: string;
  readonly text: (layer: LayerFigures) => string;
  readonly order: (layer: LayerFigures) => number | string;
}

export const COLUMNS: readonly Column[] = [
  { id: 'name', name: t('Layer'), hint: t('Module path; click to show it in the Models view.'), text: layer => layer.name, order: layer => layer.name },
  { id: 'chi', name: 'χ', hint: t('Bond dimension of each bond.'), text: layer => layer.bond_dims.join(' · '), order: layer => Math.max(...layer.bond_dims) },
  { id: 'method', name: t('Method'), hint: t('How the cores were found: from the weight alone (plain), weighted by what a calibration text says of the layer, or so in sequence, each layer fitted to the compressed ones before it.'), text: methodText, order: methodText },
  { id: 'keep', name: t('Kept'), hint: t('Parameters, of the original layer’s.'), text: layer => formatPercent(layer.keep), order: layer => layer.keep },
  {
    id: 'error',
    name: t('Relative error'),
    hint: t('‖W − Ŵ‖ / ‖W‖, Frobenius norm.'),
    text: layer => formatPercent(layer.relative_error),
    order: layer => layer.relative_error,
  },
  {
    id: 'held_out',
    name: t('Other text'),
    hint: t('What the method minimised, on text like the calibration text but not part of it, as a multiple of that on the calibration text: near 1× the layer will serve other texts as well, far above it needs more text.'),
    text: layer => (typeof layer.held_out === 'number' ? formatTimes(layer.held_out) : '–'),
    order: layer => layer.held_out ?? 0,
  },
  {
    id: 'multiply_adds',
    name: t('Multiply-adds'),
    hint: t('Per token through the cores, and of the dense layer’s: above 100% it computes more than before.'),
    text: layer => `${formatParameters(layer.multiply_adds)} (${formatPercent(layer.multiply_adds / layer.original_multiply_adds)})`,
    order: layer => layer.multiply_adds / layer.original_multiply_adds,
  },
  {
    id: 'sites',
    name: t('Sites'),
    hint: t('Output × input mode of each core.'),
    text: layer => layer.out_modes.map((mode, site) => `${mode}×${layer.in_modes[site] ?? '?'}`).join(' · '),
    order: layer => layer.out_modes.length,
  },
];

const METHODS = { plain: t('plain'), input: t('by inputs'), fisher: t('data-aware'), sequential: t('in sequence') } as const;

function methodText(layer: LayerFigures): string {
  return METHODS[layer.method ?? 'plain'];
}

function formatTimes(ratio: number): string {
  return `${ratio < 10 ? ratio.toFixed(1) : formatNumber(ratio)}×`;
}

export interface Sort {
  readonly column: string;
  readonly descending: boolean;
}

/** A sorted copy; layer names in natural order, so that block 10 comes after block 9. */
export function sortLayers(layers: readonly LayerFigures[], sort: Sort): readonly LayerFigures[] {
  const order = COLUMNS.find(column => column.id === sort.column)?.order ?? (layer => layer.name);
  const sign = sort.descending ? -1 : 1;
  return layers.toSorted((a, b) => {
    const [x, y] = [order(a), order(b)];
    return sign * (typeof x === 'number' && typeof y === 'number' ? x - y : String(x).localeCompare(String(y), 'en', { numeric: true }));
  });
}

/** Neither better nor worse where the difference is within the standard errors. */
function perplexityChange(before: Evaluation, after: Evaluation): { readonly change: string; readonly good?: boolean } {
  const { change, good } = changeOf(before.perplexity, after.perplexity, 'less');
  const sure = Math.abs(after.perplexity - before.perplexity) > Math.hypot(before.standard_error, after.standard_error);
  return sure && good !== undefined ? { change, good } : { change };
}

function speedChange(before: Evaluation, after: Evaluation): { readonly change: string; readonly good?: boolean } {
  return sameSpeed(before, after) ? { change: t('same') } : changeOf(before.tokens_per_second, after.tokens_per_second, 'more');
}

function withError(evaluation: Evaluation): string {
  return formatMeasured(evaluation.perplexity, evaluation.standard_error);
}
