/** A model at the head of its column: where it is, and what it can. */
import type { ChatSide } from '../../extension/protocol/types.ts';
import { h } from '../ui/dom.ts';
import { t } from '../ui/l10n.ts';
import { button } from '../ui/toolkit.ts';
import { sideFacts } from './facts.ts';

/** @param named the name stands in it: where there are two. */
export function sideView(side: ChatSide, named: boolean, retry: () => void): HTMLElement {
  const { name, folder, state, problem } = side;
  return h(
    'section',
    { class: 'side', title: folder },
    named ? h('h2', {}, name) : undefined,
    h('p', { class: 'facts', role: 'status' }, sideFacts(side)),
    templateNote(side),
    state === 'failed' ? h('p', { class: 'problem' }, problem ?? '') : undefined,
    state === 'failed' ? button(t('Try Again'), retry) : undefined,
  );
}

function templateNote({ state, facts }: ChatSide): HTMLElement | undefined {
  return state === 'ready' && facts && !facts.template
    ? h('p', { class: 'facts' }, t('No chat template: it goes on with the text as it stands, without the system prompt.'))
    : undefined;
}
