/** A list of tensors. A file may have half a million: only the rows in sight are elements. */
import { h } from './dom.ts';
import { t } from './l10n.ts';
import type { Column, Named, Sort } from './listRows.ts';

export interface ListActions<R> {
  readonly sort: (column: string) => void;
  readonly choose: (tensor: R) => void;
}

/** Pixels; list.css gives rows this height. */
const ROW = 24;
/** Rows drawn above and below those in sight, so that scrolling shows no gap. */
const SPARE = 12;

export class TensorList<R extends Named> {
  readonly element: HTMLElement;
  readonly #actions: ListActions<R>;
  readonly #columns: readonly Column<R>[];
  readonly #head = h('div', { role: 'row', class: 'row head' });
  readonly #rows = h('div', { role: 'rowgroup', class: 'rows' });
  readonly #scroller: HTMLElement;
  #shown: readonly R[] = [];
  #chosen: string | undefined;

  constructor(columns: readonly Column<R>[], actions: ListActions<R>) {
    this.#columns = columns;
    this.#actions = actions;
    this.#scroller = h('div', { class: 'scroller', tabindex: '0', role: 'grid', 'aria-label': t('Tensors') }, h('div', { role: 'rowgroup', class: 'heads' }, this.#head), this.#rows);
    this.element = this.#scroller;
    this.#scroller.addEventListener('scroll', () => this.#draw());
    this.#scroller.addEventListener('keydown', event => this.#key(event));
    new ResizeObserver(() => this.#draw()).observe(this.#scroller);
  }

  show(tensors: readonly R[], sort: Sort, chosen: string | undefined): void {
    this.#shown = tensors;
    this.#chosen = chosen;
    const focused = document.activeElement instanceof HTMLElement && this.#head.contains(document.activeElement) ? document.activeElement.dataset.column : undefined;
    this.#head.replaceChildren(...this.#columns.map(column => this.#header(column, sort)));
    if (focused !== undefined) {
      this.#head.querySelector<HTMLElement>(`[data-column="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
    }
    this.#scroller.setAttribute('aria-rowcount', String(tensors.length + 1));
    this.#rows.style.height = `${tensors.length * ROW}px`;
    this.#draw();
  }

  /** Scrolls it into sight, if it is among those shown. */
  reveal(tensor: R): void {
    const at = this.#shown.indexOf(tensor);
    if (at < 0) {
      return;
    }
    const head = this.#head.offsetHeight;
    const top = at * ROW;
    const { scrollTop, clientHeight } = this.#scroller;
    if (top < scrollTop) {
      this.#scroller.scrollTop = top;
    } else if (top + ROW + head > scrollTop + clientHeight) {
      this.#scroller.scrollTop = top + ROW + head - clientHeight;
    }
  }

  #header({ id, name, hint }: Column<R>, { column, descending }: Sort): HTMLElement {
    const isSorted = id === column;
    const arrow = isSorted ? (descending ? ' ↓' : ' ↑') : '';
    const control = h('button', { type: 'button', 'data-column': id, title: hint ?? t('Sort by {0}', name) }, name, h('span', { 'aria-hidden': 'true' }, arrow));
    control.addEventListener('click', () => this.#actions.sort(id));
    return h('div', { role: 'columnheader', class: id, 'aria-sort': isSorted ? (descending ? 'descending' : 'ascending') : 'none' }, control);
  }

  #draw(): void {
    const first = Math.max(0, Math.floor(this.#scroller.scrollTop / ROW) - SPARE);
    const last = Math.min(this.#shown.length, Math.ceil((this.#scroller.scrollTop + this.#scroller.clientHeight) / ROW) + SPARE);
    this.#rows.replaceChildren(...this.#shown.slice(first, last).map((tensor, index) => this.#row(tensor, first + index)));
    const active = this.#rows.querySelector('[aria-selected="true"]');
    if (active) {
      this.#scroller.setAttribute('aria-activedescendant', active.id);
    } else {
      this.#scroller.removeAttribute('aria-activedescendant');
    }
  }

  #row(tensor: R, at: number): HTMLElement {
    const isChosen = tensor.name === this.#chosen;
    const cells = this.#columns.map(column => cell(column, tensor));
    const row = h('div', { role: 'row', id: `row-${at}`, class: isChosen ? 'row chosen' : 'row', 'aria-rowindex': String(at + 2), 'aria-selected': String(isChosen) }, ...cells);
    row.style.top = `${at * ROW}px`;
    row.addEventListener('click', () => this.#actions.choose(tensor));
    return row;
  }

  #key(event: KeyboardEvent): void {
    if (event.target !== this.#scroller) {
      return;
    }
    const page = Math.max(1, Math.floor(this.#scroller.clientHeight / ROW) - 2);
    const now = this.#shown.findIndex(({ name }) => name === this.#chosen);
    const moves: Readonly<Record<string, number>> = { ArrowDown: now + 1, ArrowUp: now - 1, PageDown: now + page, PageUp: now - page, Home: 0, End: this.#shown.length - 1 };
    const to = moves[event.key];
    const tensor = to === undefined ? undefined : this.#shown[Math.min(Math.max(to, 0), this.#shown.length - 1)];
    if (tensor && to !== undefined) {
      event.preventDefault();
      this.#actions.choose(tensor);
      this.reveal(tensor);
    }
  }
}

function cell<R extends Named>({ id, text, part }: Column<R>, tensor: R): HTMLElement {
  const written = text(tensor);
  const element = h('div', { role: id === 'name' ? 'rowheader' : 'gridcell', class: id, title: id === 'name' ? tensor.name : written }, written);
  const share = part?.(tensor);
  if (share !== undefined) {
    const bar = h('i', { class: 'share', 'aria-hidden': 'true' });
    bar.style.width = `${100 * share}%`;
    element.prepend(bar);
  }
  return element;
}
