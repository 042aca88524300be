/** The sizes to measure at, as a user types them. */
import { t } from '../l10n/text.ts';
import { parseTarget } from '../plan/choices.ts';

export type ProfileSizes = { readonly keep: readonly number[] } | { readonly chi: readonly number[] };
export interface SizesProblem {
  readonly problem: string;
  readonly remedy: string;
}

const examples = (): string => t('Type shares such as 75% 50% 30%, or bond dimensions such as 256 64 16.');

/**
 * Reads `75% 50% 30%` or `256, 64, 16`; each size once, the largest first.
 * @param rank the largest bond dimension that any of the layers can have
 */
export function parseSizes(text: string, rank: number): ProfileSizes | SizesProblem {
  const words = text.split(/[\s,;]+/).filter(Boolean);
  const [keep, chi] = [new Set<number>(), new Set<number>()];
  for (const word of words) {
    const target = parseTarget(word);
    if (!target || 'problem' in target) {
      return { problem: target?.problem ?? t('“{0}” is not a size.', word), remedy: examples() };
    }
    if ('keep' in target) {
      keep.add(target.keep);
    } else {
      chi.add(target.chi);
    }
  }
  const largest = Math.max(...chi);
  if (keep.size + chi.size === 0) {
    return { problem: t('There is no size to measure at.'), remedy: examples() };
  }
  if (keep.size > 0 && chi.size > 0) {
    return { problem: t('Shares and bond dimensions are mixed.'), remedy: examples() };
  }
  if (largest > rank) {
    return { problem: t('χ {0} is above {1}, the rank of the largest layer.', largest, rank), remedy: t('Type bond dimensions up to {0}.', rank) };
  }
  return keep.size > 0 ? { keep: descending(keep) } : { chi: descending(chi) };
}

export function sizesText(sizes: ProfileSizes): string {
  return 'keep' in sizes ? sizes.keep.map(keep => `${Number((keep * 100).toPrecision(4))}%`).join(' ') : sizes.chi.map(chi => `χ ${chi}`).join(' ');
}

function descending(values: ReadonlySet<number>): readonly number[] {
  return [...values].sort((a, b) => b - a);
}
