/** How far a run is, and its buttons. */
import type { RunStatus } from '../../extension/protocol/types.ts';
import { fractionDone, isActive, progressText, runOf } from '../../extension/runs/run.ts';
import { h } from './dom.ts';
import { t } from './l10n.ts';

export class RunStrip {
  readonly #text = h('span', { class: 'run-text' });
  readonly #fill = h('div', {});
  readonly #bar: HTMLElement;
  readonly element: HTMLElement;

  /** @param label of the progress bar, for who does not see it. */
  constructor(label: string, ...buttons: readonly HTMLElement[]) {
    this.#bar = h('div', { class: 'bar', role: 'progressbar', 'aria-label': label, 'aria-valuemin': '0', 'aria-valuemax': '100' }, this.#fill);
    this.element = h('section', { class: 'run', 'aria-label': t('Run'), hidden: '' }, h('div', { class: 'run-line' }, this.#text, h('div', { class: 'buttons' }, ...buttons)), this.#bar);
  }

  /** @param text instead of how far it is. */
  show(status: RunStatus | null, text?: string): void {
    this.element.hidden = status === null;
    if (status === null) {
      return;
    }
    const run = runOf(status);
    const fraction = fractionDone(run);
    this.#text.textContent = text ?? progressText(run);
    this.#bar.hidden = !isActive(status.state);
    this.#fill.style.width = `${(fraction ?? 0) * 100}%`;
    if (fraction === undefined) {
      this.#bar.removeAttribute('aria-valuenow');
    } else {
      this.#bar.setAttribute('aria-valuenow', String(Math.floor(fraction * 100)));
    }
  }
}
