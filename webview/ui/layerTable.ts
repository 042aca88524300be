/** Layers as a table: for the keyboard, for a screen reader, and to read off. */
import { h } from './dom.ts';
import { t } from './l10n.ts';
import { type Column, type Row, type Sort, sortRows } from './layerRows.ts';

export interface TableActions {
  readonly sort: (sort: Sort) => void;
  readonly select: (layer: string, event: MouseEvent) => void;
  readonly openMenu: (layer: string, at: { readonly x: number; readonly y: number }, from: HTMLElement) => void;
}

export class TableView<R extends Row> {
  readonly #actions: TableActions;
  readonly #head = h('tr', {});
  readonly #body = h('tbody', {});
  readonly #caption = h('caption', {});
  readonly element: HTMLElement;

  constructor(actions: TableActions) {
    this.#actions = actions;
    const table = h('table', {}, this.#caption, h('thead', {}, this.#head), this.#body);
    this.element = h('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': t('Table') }, table);
  }

  /** Draws anew, and leaves the focus where it was. */
  show(caption: string, rows: readonly R[], columns: readonly Column<R>[], sort: Sort, selected: ReadonlySet<string>): void {
    const focused = document.activeElement instanceof HTMLElement && this.element.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
    this.#caption.textContent = caption;
    this.#head.replaceChildren(...columns.map(column => this.#header(column, sort)));
    this.#body.replaceChildren(...sortRows(rows, columns, sort).map(row => this.#row(row, columns, selected)));
    if (focused !== undefined) {
      this.element.querySelector<HTMLElement>(`[data-key="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
    }
  }

  #header(column: Column<R>, sort: Sort): HTMLElement {
    const sorted = sort.column === column.id;
    const arrow = sorted ? (sort.descending ? ' ↓' : ' ↑') : '';
    const control = h('button', { type: 'button', 'data-key': `sort ${column.id}`, title: column.hint }, column.name, h('span', { 'aria-hidden': 'true' }, arrow));
    control.addEventListener('click', () => this.#actions.sort({ column: column.id, descending: sorted && !sort.descending }));
    return h('th', { scope: 'col', 'aria-sort': sorted ? (sort.descending ? 'descending' : 'ascending') : 'none' }, control);
  }

  #row(row: R, columns: readonly Column<R>[], selected: ReadonlySet<string>): HTMLElement {
    const { name } = row.layer;
    const isSelected = selected.has(name);
    const control = h('button', { type: 'button', 'data-key': name, 'aria-pressed': String(isSelected), title: t('Select; with Ctrl add or take away') }, name);
    control.addEventListener('click', event => this.#actions.select(name, event));
    const [, ...rest] = columns;
    const element = h('tr', { class: isSelected ? 'selected' : undefined }, h('th', { scope: 'row' }, control), ...rest.map(column => h('td', {}, column.text(row))));
    element.addEventListener('contextmenu', event => {
      event.preventDefault();
      // From the keyboard there is no place: below the name then.
      const { left, bottom } = control.getBoundingClientRect();
      this.#actions.openMenu(name, event.clientX === 0 && event.clientY === 0 ? { x: left, y: bottom } : { x: event.clientX, y: event.clientY }, control);
    });
    return element;
  }
}
