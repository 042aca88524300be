/** What the profile is of, how it was made, and what is wrong with it. */
import type { Sensitivity } from '../../extension/protocol/types.ts';
import { h } from '../ui/dom.ts';
import { t } from '../ui/l10n.ts';
import type { Correlation } from './figures.ts';

const CORRELATION =
  t('Spearman’s rank correlation of the predicted and the measured rise of the loss (or the KL divergence, where it is surer) over all measured cells: 1 where the prediction puts them in the same order as the measurement, 0 where it says nothing.');

export class Head {
  readonly #title = h('h1', {});
  readonly #covered = h('span', {});
  readonly #correlation = h('span', { class: 'explained', tabindex: '0', title: CORRELATION, hidden: '' });
  readonly #notes = h('ul', { class: 'notes', 'aria-label': t('Notes') });
  readonly element = h('div', {}, this.#title, h('p', { class: 'lead' }, this.#covered, this.#correlation), this.#notes);

  show({ model, data, sequences, length, sites, layers }: Sensitivity, notes: readonly string[]): void {
    this.#title.textContent = t('Sensitivity of {0}', model.name);
    const shape = sites === 'low-rank' ? t('low rank') : t('{0} sites', sites);
    const how = layers.length === 1 ? t('1 layer as {0}', shape) : t('{0} layers, one at a time, as {1}', layers.length, shape);
    this.#covered.textContent = t('{0}; {1} × {2} tokens of {3}', how, sequences, length, data === 'builtin' ? t('the built-in text') : data);
    this.#notes.replaceChildren(...notes.map(note => h('li', {}, note)));
    this.#notes.hidden = notes.length === 0;
  }

  showCorrelation({ value, cells }: Correlation): void {
    this.#correlation.hidden = value === undefined;
    this.#correlation.textContent = value === undefined ? '' : t('Rank correlation of predicted and measured: {0} ({1} cells)', value.toFixed(2), cells);
  }
}
