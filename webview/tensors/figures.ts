/** Figures of a tensor in words. */
import { formatCount } from '../../extension/runs/format.ts';
import type { TensorFacts } from '../../extension/protocol/types.ts';
import { t } from '../ui/l10n.ts';

export interface FigureText {
  readonly name: string;
  readonly value: string;
  /** It should be looked at. */
  readonly bad: boolean;
}

export function figuresOf(facts: TensorFacts): readonly FigureText[] {
  const { count, zeros, nan, infinite, minimum, maximum, mean, deviation, norm } = facts;
  const share = (some: number) => (count > 0 && some > 0 ? `${formatCount(some)} (${((100 * some) / count).toPrecision(2)}%)` : '0');
  const plain = (name: string, value: number | null) => ({ name, value: value === null ? '–' : readable(value), bad: false });
  return [
    plain(t('Minimum'), minimum),
    plain(t('Maximum'), maximum),
    plain(t('Mean'), mean),
    plain(t('Standard deviation'), deviation),
    plain(t('Norm'), norm),
    { name: t('Zeros'), value: share(zeros), bad: false },
    { name: t('NaN'), value: share(nan), bad: nan > 0 },
    { name: t('Infinite'), value: share(infinite), bad: infinite > 0 },
  ];
}

/** Three digits; far from one with a power of ten. */
export function readable(value: number): string {
  const size = Math.abs(value);
  return size !== 0 && (size < 1e-3 || size >= 1e5) ? value.toExponential(2) : String(Number(value.toPrecision(3)));
}

/** Heights in percent: the logarithm of one more than the count, so that a single outlier is seen beside millions. */
export function bars({ histogram, low, high }: TensorFacts): readonly { readonly height: number; readonly text: string }[] {
  const most = Math.log1p(Math.max(0, ...histogram));
  const width = (high - low) / histogram.length;
  return histogram.map((count, index) => ({
    height: most === 0 ? 0 : (100 * Math.log1p(count)) / most,
    text: t('{0} to {1}: {2}', readable(low + index * width), readable(low + (index + 1) * width), formatCount(count)),
  }));
}
