/** The chat page: the models beside each other, what they answered, and where the next prompt is written. */
import { isBusy, withToken } from '../../extension/chat/fold.ts';
import type { ChatTurn, ChatView, HostMessage } from '../../extension/protocol/types.ts';
import { Asker, type Request } from '../ui/asker.ts';
import { h } from '../ui/dom.ts';
import { t } from '../ui/l10n.ts';
import { button } from '../ui/toolkit.ts';
import { AnswerView } from './answer.ts';
import { sideView } from './side.ts';
import { SettingsView } from './settings.ts';
import type { ChatState } from './state.ts';

export interface PageParts {
  readonly request: Request;
  readonly save: (state: ChatState) => void;
}

/** So near to the end, in pixels, the page follows what is written. */
const NEAR = 80;

export class ChatPage {
  readonly element = h('main', {});
  readonly #save: PageParts['save'];
  readonly #asker: Asker;
  readonly #title = h('h1', {});
  readonly #sides = h('div', { class: 'columns sides' });
  readonly #note = h('p', { class: 'note', role: 'status' });
  readonly #turns = h('div', { class: 'turns', role: 'log', 'aria-label': t('Conversation') });
  readonly #empty = h('p', { class: 'note empty' });
  readonly #box = document.createElement('textarea');
  readonly #send: HTMLElement;
  readonly #stop: HTMLElement;
  readonly #clear: HTMLElement;
  #state: ChatState;
  #view: ChatView | undefined;
  /** Of the last turn. */
  #answers: readonly AnswerView[] = [];

  constructor(state: ChatState, { request, save }: PageParts) {
    this.#state = state;
    this.#save = save;
    this.#asker = new Asker(request);
    this.#send = button(t('Send'), () => this.#submit(), 'primary');
    this.#stop = button(t('Stop'), () => this.#asker.ask('stopChat'));
    this.#clear = button(t('New Conversation'), () => this.#asker.ask('clearChat'));
    this.#box.rows = 3;
    this.#box.value = state.draft;
    this.#box.setAttribute('aria-label', t('Prompt'));
    this.#box.placeholder = t('Ask both the same. Enter sends, Shift+Enter begins a line.');
    this.#box.addEventListener('input', () => this.#keep({ draft: this.#box.value }));
    this.#box.addEventListener('keydown', event => {
      if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        this.#submit();
      } else if (event.key === 'Escape' && this.#view && isBusy(this.#view)) {
        this.#asker.ask('stopChat');
      }
    });
    const settings = new SettingsView(state.settings, changed => this.#keep({ settings: changed }));
    this.element.append(
      h('header', {}, this.#title, this.#sides),
      this.#empty,
      this.#turns,
      h(
        'footer',
        {},
        this.#asker.problem,
        this.#note,
        this.#box,
        h('div', { class: 'below' }, h('div', { class: 'buttons' }, this.#send, this.#stop, this.#clear), settings.element),
      ),
    );
  }

  take(message: Extract<HostMessage, { type: 'chat' | 'chatToken' }>): void {
    const atEnd = document.documentElement.scrollHeight - window.scrollY - window.innerHeight < NEAR;
    if (message.type === 'chat') {
      this.#view = message.chat;
      this.#keep({ models: message.chat.models.map(({ folder }) => folder).join('\0') });
      this.#draw(message.chat);
    } else if (this.#view) {
      this.#view = withToken(this.#view, message.model, message.token);
      const answer = this.#view.turns?.at(-1)?.answers[message.model];
      if (answer) {
        this.#answers[message.model]?.show(answer);
      }
    }
    if (atEnd) {
      window.scrollTo(0, document.documentElement.scrollHeight);
    }
  }

  #draw(view: ChatView): void {
    const { models, turns = [] } = view;
    const names = models.map(({ name }) => name);
    this.element.style.setProperty('--columns', String(models.length));
    this.#title.textContent = models.length > 1 ? t('{0} and {1}', names[0] ?? '', names[1] ?? '') : (names[0] ?? '');
    this.#title.className = models.length > 1 ? 'unseen' : '';
    if (models.length < 2) {
      this.#box.placeholder = t('Enter sends, Shift+Enter begins a line.');
    }
    this.#sides.replaceChildren(...models.map(side => sideView(side, models.length > 1, () => this.#asker.ask('loadChat'))));
    this.#empty.textContent = models.length > 1 ? t('What you write goes to both models. They write by turns, a token each, so their speeds compare.') : '';
    this.#empty.hidden = turns.length > 0;
    this.#turns.replaceChildren(...turns.map(turn => this.#turn(turn, names)));
    this.#note.textContent = view.note ?? '';
    this.#note.hidden = !view.note;
    const busy = isBusy(view);
    this.#send.toggleAttribute('disabled', busy);
    this.#stop.toggleAttribute('disabled', !busy);
    this.#clear.toggleAttribute('disabled', turns.length === 0);
  }

  #turn({ prompt, answers }: ChatTurn, names: readonly string[]): HTMLElement {
    this.#answers = answers.map((answer, i) => new AnswerView(names[i] ?? '', answer));
    return h('section', { class: 'turn' }, h('p', { class: 'asked' }, h('span', { class: 'unseen' }, t('You: ')), prompt), h('div', { class: 'columns' }, ...this.#answers.map(({ element }) => element)));
  }

  #submit(): void {
    const prompt = this.#box.value;
    if (prompt.trim() === '' || (this.#view && isBusy(this.#view))) {
      return;
    }
    this.#box.value = '';
    this.#keep({ draft: '' });
    this.#asker.ask('sendChat', prompt, { chat: this.#state.settings });
    window.scrollTo(0, document.documentElement.scrollHeight);
  }

  #keep(change: Partial<ChatState>): void {
    this.#state = { ...this.#state, ...change };
    this.#save(this.#state);
  }
}
