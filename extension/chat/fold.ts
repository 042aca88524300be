/** A chat as its panel shows it, changed by what the engine tells. The host and the page use the same code. */
import type { ChatAnswer, ChatMessage, ChatReply, ChatSettings, ChatSide, ChatToken, ChatView } from '../protocol/types.ts';

/** An answer that is not finished. */
export function isOpen({ state }: ChatAnswer): boolean {
  return state === 'waiting' || state === 'writing';
}

/** Whether a model writes, or is about to. */
export function isBusy({ turns }: ChatView): boolean {
  return turns?.at(-1)?.answers.some(isOpen) ?? false;
}

export function withSide(view: ChatView, model: number, change: Partial<ChatSide>): ChatView {
  return { ...view, models: view.models.map((side, i) => (i === model ? { ...side, ...change } : side)) };
}

/** The next turn, which every model is to answer. What was noted of the process is done with. */
export function withPrompt(view: ChatView, prompt: string): ChatView {
  return { ...view, note: null, turns: [...(view.turns ?? []), { prompt, answers: view.models.map(() => ({ state: 'waiting' as const })) }] };
}

export function withToken(view: ChatView, model: number, { text, tokens = 0, seconds = 0, first_seconds = 0 }: ChatToken): ChatView {
  return withAnswer(view, model, answer => (isOpen(answer) ? { ...answer, state: 'writing', text: (answer.text ?? '') + text, tokens, seconds, first_seconds } : answer));
}

export function withReply(view: ChatView, model: number, { reason, ...reply }: ChatReply): ChatView {
  return withAnswer(view, model, () => ({ ...reply, state: reason }));
}

/** What was written until then stays. */
export function withFailure(view: ChatView, model: number, problem: string): ChatView {
  return withAnswer(view, model, answer => ({ ...answer, state: 'failed', problem }));
}

/** What a model is asked: the turns so far with its own answers, the last prompt at the end. Its own words of a failed turn are none. */
export function messagesFor(view: ChatView, model: number, { system = '' }: ChatSettings): [ChatMessage, ...ChatMessage[]] {
  const turns = view.turns ?? [];
  const before: ChatMessage[] = turns.slice(0, -1).flatMap(({ prompt, answers }) => {
    const answer = answers[model];
    return answer?.text ? [{ role: 'user', content: prompt }, { role: 'assistant', content: answer.text }] : [];
  });
  const last: ChatMessage = { role: 'user', content: turns.at(-1)?.prompt ?? '' };
  const all: ChatMessage[] = [...(system.trim() === '' ? [] : [{ role: 'system' as const, content: system }]), ...before];
  const [first, ...rest] = all;
  return first ? [first, ...rest, last] : [last];
}

/** Tokens a second behind the first one; undefined before there are two. */
export function speedOf({ tokens = 0, seconds = 0 }: ChatAnswer): number | undefined {
  return tokens > 1 && seconds > 0 ? (tokens - 1) / seconds : undefined;
}

function withAnswer(view: ChatView, model: number, change: (answer: ChatAnswer) => ChatAnswer): ChatView {
  const turns = view.turns ?? [];
  const last = turns.at(-1);
  return last ? { ...view, turns: [...turns.slice(0, -1), { ...last, answers: last.answers.map((answer, i) => (i === model ? change(answer) : answer)) }] } : view;
}
