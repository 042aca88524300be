/** Words on healing that views, steps and the panel share. Without VS Code: the panel has none. */
import { t } from '../l10n/text.ts';
import type { HealData, HealResult } from '../protocol/types.ts';
import { formatNumber } from '../runs/format.ts';

/** `built-in text`, `my.jsonl and data set org/name (2:1)`. */
export function describeData(data: readonly HealData[] | undefined): string {
  const sources = data ?? [{ data: 'builtin' }];
  const names = sources.map(source => describeSource(source.data));
  const weights = sources.map(({ weight = 1 }) => weight);
  const shares = new Set(weights).size > 1 ? ` (${weights.join(':')})` : '';
  return `${names.length > 1 ? t('{0} and {1}', names.slice(0, -1).join(', '), names.at(-1) ?? '') : (names[0] ?? '')}${shares}`;
}

export function describeSource(data: string): string {
  if (data === 'builtin') {
    return t('the built-in text');
  }
  if (data === 'self') {
    return t('text that the original writes');
  }
  return /\.(txt|jsonl)$/i.test(data) ? (data.split(/[\\/]/).at(-1) ?? data) : t('data set {0}', data);
}

/** `perplexity 51.2 → 30.1 (original 21.0)`, on the text that was held back. */
export function healedPerplexity({ start_loss, best_loss, teacher_loss }: HealResult): string {
  const original = typeof teacher_loss === 'number' ? ` ${t('(original {0})', perplexityOf(teacher_loss))}` : '';
  return t('perplexity {0} → {1}{2}', perplexityOf(start_loss), perplexityOf(best_loss), original);
}

/** Of a cross entropy in nats per token. */
export function perplexityOf(loss: number): string {
  return formatNumber(Math.exp(Math.min(loss, 700)));
}
