/** The run that fills what is shown: how far it is, and how to stop it. */
import type { RunStatus } from '../../extension/protocol/types.ts';
import { EMPTY_SUMMARY } from '../../extension/runs/fold.ts';
import { fractionDone, isActive, progressText, type Run } from '../../extension/runs/run.ts';
import { h } from './dom.ts';
import { button } from './toolkit.ts';

export class RunStrip {
  readonly #text = h('span', { class: 'run-text' });
  readonly #fill = h('div', {});
  readonly #bar = h('div', { class: 'bar', role: 'progressbar', 'aria-label': 'Run', 'aria-valuemin': '0', 'aria-valuemax': '100' }, this.#fill);
  readonly #cancel: HTMLElement;
  readonly element: HTMLElement;

  constructor(actions: { readonly cancel: () => void; readonly show: () => void }) {
    this.#cancel = button('Cancel', actions.cancel);
    this.element = h(
      'section',
      { class: 'run', 'aria-label': 'Run', hidden: '' },
      h('div', { class: 'run-line' }, this.#text, h('div', { class: 'buttons' }, button('Show Run', actions.show), this.#cancel)),
      this.#bar,
    );
  }

  show(status: RunStatus | null): void {
    const active = status !== null && isActive(status.state);
    this.element.hidden = !active;
    if (!active) {
      return;
    }
    const run: Run = { id: '', directory: '', title: '', created: '', state: status.state, status, summary: EMPTY_SUMMARY };
    const fraction = fractionDone(run);
    this.#text.textContent = progressText(run);
    this.#fill.style.width = `${(fraction ?? 0) * 100}%`;
    if (fraction === undefined) {
      this.#bar.removeAttribute('aria-valuenow');
    } else {
      this.#bar.setAttribute('aria-valuenow', String(Math.floor(fraction * 100)));
    }
    this.#cancel.hidden = status.state === 'cancelling';
  }
}
