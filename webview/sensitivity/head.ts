/** What the profile is of, how it was made, and what is wrong with it. */
import type { Sensitivity } from '../../extension/protocol/types.ts';
import { h } from '../ui/dom.ts';
import type { Correlation } from './figures.ts';

const CORRELATION =
  'Spearman’s rank correlation of the predicted and the measured rise of the loss (or the KL divergence, where it is surer) over all measured cells: ' +
  '1 where the prediction puts them in the same order as the measurement, 0 where it says nothing.';

export class Head {
  readonly #title = h('h1', {});
  readonly #covered = h('span', {});
  readonly #correlation = h('span', { class: 'explained', tabindex: '0', title: CORRELATION, hidden: '' });
  readonly #notes = h('ul', { class: 'notes', 'aria-label': 'Notes' });
  readonly element = h('div', {}, this.#title, h('p', { class: 'lead' }, this.#covered, this.#correlation), this.#notes);

  show({ model, data, sequences, length, sites, layers }: Sensitivity, notes: readonly string[]): void {
    this.#title.textContent = `Sensitivity of ${model.name}`;
    const how = `${layers.length} ${layers.length === 1 ? 'layer' : 'layers, one at a time,'} as ${sites === 'low-rank' ? 'low rank' : `${sites} sites`}`;
    this.#covered.textContent = `${how}; ${sequences} × ${length} tokens of ${data === 'builtin' ? 'the built-in text' : data}`;
    this.#notes.replaceChildren(...notes.map(note => h('li', {}, note)));
    this.#notes.hidden = notes.length === 0;
  }

  showCorrelation({ value, cells }: Correlation): void {
    this.#correlation.hidden = value === undefined;
    this.#correlation.textContent = value === undefined ? '' : `Rank correlation of predicted and measured: ${value.toFixed(2)} (${cells} cells)`;
  }
}
