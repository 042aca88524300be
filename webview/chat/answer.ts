/** One model's answer: the text as it comes, and how fast it comes. */
import { isOpen } from '../../extension/chat/fold.ts';
import type { ChatAnswer } from '../../extension/protocol/types.ts';
import { h } from '../ui/dom.ts';
import { t } from '../ui/l10n.ts';
import { answerFacts } from './facts.ts';

export class AnswerView {
  readonly #text = h('p', { class: 'text' });
  readonly #facts = h('p', { class: 'facts' });
  readonly #problem = h('p', { class: 'problem' });
  readonly element: HTMLElement;

  constructor(name: string, answer: ChatAnswer) {
    this.element = h('article', { class: 'answer', 'aria-label': name }, this.#text, this.#problem, this.#facts);
    this.show(answer);
  }

  show(answer: ChatAnswer): void {
    this.element.classList.toggle('open', isOpen(answer));
    this.#text.textContent = answer.state === 'end' && !answer.text ? t('(nothing)') : (answer.text ?? '');
    this.#problem.textContent = answer.problem ?? '';
    this.#facts.textContent = answerFacts(answer);
  }
}
