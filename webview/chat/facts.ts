/** What the chat page says of models and answers, in words. */
import { speedOf } from '../../extension/chat/fold.ts';
import type { ChatAnswer, ChatSide } from '../../extension/protocol/types.ts';
import { formatBytes, formatDuration, formatNumber } from '../../extension/runs/format.ts';
import { t } from '../ui/l10n.ts';

/** `31 tokens · 12.3 tokens/s · first after 0.4 s · stopped` */
export function answerFacts(answer: ChatAnswer): string {
  const { state, tokens = 0, first_seconds: first = 0 } = answer;
  if (state === 'waiting') {
    return t('Waiting…');
  }
  const speed = speedOf(answer);
  const ends: Partial<Record<NonNullable<ChatAnswer['state']>, string>> = { length: t('as long as allowed'), stopped: t('stopped') };
  return [
    ...(tokens > 0 ? [tokens === 1 ? t('1 token') : t('{0} tokens', tokens)] : []),
    ...(speed === undefined ? [] : [t('{0} tokens/s', formatNumber(speed))]),
    ...(first > 0 ? [t('first after {0}', formatDuration(first))] : []),
    ...(state !== undefined && ends[state] !== undefined ? [ends[state]] : []),
  ].join(' · ');
}

export function sideFacts({ state, facts, bytes }: ChatSide): string {
  if (state === 'ready' && facts) {
    return t('{0} in memory · {1} on {2}', formatBytes(facts.memory), facts.dtype, facts.device);
  }
  if (state === 'loading') {
    return bytes > 0 ? t('Loading {0}…', formatBytes(bytes)) : t('Loading…');
  }
  return state === 'failed' ? t('Could not be loaded') : t('Not in memory');
}
