import { describe, expect, it } from 'vitest';
import { isBusy, messagesFor, speedOf, withFailure, withPrompt, withReply, withSide, withToken } from '../../extension/chat/fold.ts';
import type { ChatView } from '../../extension/protocol/types.ts';
import { answerFacts, sideFacts } from '../../webview/chat/facts.ts';
import { readState } from '../../webview/chat/state.ts';

const empty: ChatView = {
  models: [
    { folder: '/m/one', name: 'one', bytes: 269e6, state: 'away' },
    { folder: '/m/two', name: 'two', bytes: 116e6, state: 'away' },
  ],
};
const token = (text: string, tokens: number) => ({ turn: 'x', text, tokens, seconds: (tokens - 1) * 0.1, first_seconds: 0.5 });

describe('a chat', () => {
  it('takes tokens and replies, each for its model', () => {
    let view = withPrompt({ ...empty, note: 'it died' }, 'Hello?');
    expect(view.note).toBeNull();
    expect(isBusy(view)).toBe(true);
    view = withToken(withToken(withToken(view, 1, token('Hi', 1)), 1, token(' there', 2)), 0, token('Yes', 1));
    expect(view.turns?.at(-1)?.answers.map(({ text, state }) => [text, state])).toEqual([['Yes', 'writing'], ['Hi there', 'writing']]);
    view = withReply(view, 1, { text: 'Hi there', tokens: 2, seconds: 0.1, first_seconds: 0.5, prompt_tokens: 9, reason: 'end' });
    expect(isBusy(view)).toBe(true);
    view = withFailure(view, 0, 'The engine’s process ended.');
    expect(isBusy(view)).toBe(false);
    expect(view.turns?.at(-1)?.answers[0]).toMatchObject({ text: 'Yes', state: 'failed', problem: 'The engine’s process ended.' });
    // What comes late, of an answer that is closed, changes nothing.
    expect(withToken(view, 1, token('!', 3))).toEqual(view);
    expect(withToken(empty, 0, token('!', 3))).toBe(empty);
  });

  it('asks each model with its own answers before', () => {
    let view = withPrompt(empty, 'First');
    view = withReply(view, 0, { text: 'A', prompt_tokens: 1, reason: 'end' });
    view = withFailure(view, 1, 'no');
    view = withPrompt(view, 'Second');
    expect(messagesFor(view, 0, { system: ' ' })).toEqual([
      { role: 'user', content: 'First' },
      { role: 'assistant', content: 'A' },
      { role: 'user', content: 'Second' },
    ]);
    expect(messagesFor(view, 1, { system: 'Be short.' })).toEqual([
      { role: 'system', content: 'Be short.' },
      { role: 'user', content: 'Second' },
    ]);
  });

  it('tells speeds of what was measured, and where a model is', () => {
    expect(speedOf({ tokens: 1, seconds: 0 })).toBeUndefined();
    expect(speedOf({ tokens: 11, seconds: 2 })).toBe(5);
    expect(answerFacts({ state: 'waiting' })).toBe('Waiting…');
    expect(answerFacts({ state: 'stopped', tokens: 11, seconds: 2, first_seconds: 0.42 })).toBe('11 tokens · 5 tokens/s · first after 0.4 s · stopped');
    expect(answerFacts({ state: 'end', tokens: 1, first_seconds: 3 })).toBe('1 token · first after 3 s');
    const facts = { model: '/m/one', device: 'cpu', dtype: 'float32', memory: 538e6, template: false, seconds: 2 };
    const [one] = withSide(empty, 0, { state: 'ready', facts }).models;
    expect(one && sideFacts(one)).toBe('538 MB in memory · float32 on cpu');
    const [loading] = withSide(empty, 0, { state: 'loading' }).models;
    expect(loading && sideFacts(loading)).toBe('Loading 269 MB…');
  });

  it('takes of a stored state what is right', () => {
    expect(readState(undefined)).toEqual({ draft: '', settings: { system: '', temperature: 0, seed: 0, max_tokens: 256 } });
    const settings = { system: 'x', temperature: 9, seed: 3.4, max_tokens: Number.NaN };
    expect(readState({ models: '/a', draft: 'b', settings })).toEqual({ models: '/a', draft: 'b', settings: { system: 'x', temperature: 0, seed: 3, max_tokens: 256 } });
  });
});
