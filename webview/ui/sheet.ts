/** Layers in rows and columns as a control: labels that stay in sight, the mouse, the keyboard, and what a screen reader is told. */
import { h } from './dom.ts';
import { Hint } from './hint.ts';
import { t } from './l10n.ts';
import { columnAt, type Geometry, spotAt, widthOf } from './geometry.ts';
import type { Grid, Spot } from './grid.ts';
import { columnLabels, cornerLabel, rowLabels } from './labels.ts';
import { moved } from './moves.ts';
import { choose, drag, modeOf, NOTHING, type Selection } from './select.ts';

/** What is drawn on it. */
export interface Picture {
  readonly grid: Grid;
  /** @param width in pixels that there are beside the row labels. @param height below the column labels, for all rows and what else scrolls. */
  readonly measure: (width: number, height: number) => Geometry;
  /** One pass over all cells. @param ratio canvas pixels of a CSS pixel. */
  readonly paint: (context: CanvasRenderingContext2D, geometry: Geometry, ratio: number) => void;
}

export interface SheetActions {
  /** @param settled false while a drag goes on. */
  readonly select: (selection: Selection, settled: boolean) => void;
  /** For the selected layers, at a point of the window. */
  readonly openMenu: (at: { readonly x: number; readonly y: number }, from: HTMLElement) => void;
  /** What is known of a layer, as the content of a hover. */
  readonly tell: (layer: string) => Node;
  /** The same as one line. */
  readonly describe: (layer: string) => string;
  readonly scrolled: (at: { readonly x: number; readonly y: number }) => void;
}

/** Pixels, as sheet.css has them. */
const LABEL_WIDTH = 58;
const HEADS_HEIGHT = 42;
/** A drag this near to the edge scrolls. */
const EDGE = 24;
const EVERYTHING: Spot = { row: -1, column: -1 };
const HELP = t('Arrow keys move, Space adds or takes away, Enter selects one, Shift with arrows a range, Control+A all; Shift+F10 opens the menu.');

/** Browsers refuse canvases beyond this many pixels on a side, and one in all should not take more memory than 128 MB. */
const MAX_SIDE = 16_000;
const MAX_PIXELS = 32e6;
let sheets = 0;

export class LayerSheet {
  /** Scrolls; never narrower than its cells. */
  readonly element: HTMLElement;
  readonly #actions: SheetActions;
  readonly #canvas = document.createElement('canvas');
  readonly #hovered = h('div', { class: 'hovered', hidden: '' });
  readonly #cells = h('div', { class: 'cells', role: 'rowgroup' }, this.#canvas, this.#hovered);
  readonly #heads = h('div', { class: 'heads', role: 'rowgroup' });
  readonly #rows = h('div', { class: 'labels', role: 'rowgroup' });
  /** Of its elements' ids: there may be two in a page. */
  readonly #id = `sheet-${++sheets}`;
  readonly #all = cornerLabel(this.#id);
  readonly #sheet: HTMLElement;
  readonly #hint = new Hint();
  #picture: Picture | undefined;
  #selection: Selection = NOTHING;
  #geometry: Geometry = { edges: [0], rowHeight: 1 };
  #labels = '';
  #active: Spot = { row: 0, column: 0 };
  #activeCell: HTMLElement | undefined;
  /** Of the active cell: in the document only with it. */
  #activeRow: HTMLElement | undefined;
  #dragged: { readonly from: Spot; readonly before: Selection; readonly keep: boolean } | undefined;
  #asked = false;
  /** How often something else was shown: a hover says what it was when it opened. */
  #shown = 0;

  constructor(actions: SheetActions) {
    this.#actions = actions;
    this.#canvas.setAttribute('aria-hidden', 'true');
    this.#sheet = h(
      'div',
      { class: 'sheet', role: 'grid', tabindex: '0', 'aria-multiselectable': 'true', 'aria-describedby': `${this.#id}-help` },
      h('div', { class: 'rows', role: 'rowgroup' }, h('div', { class: 'rows', role: 'row', 'aria-rowindex': '1' }, this.#all)),
      this.#heads,
      this.#rows,
      this.#cells,
    );
    this.element = h('div', { class: 'map' }, this.#sheet, h('p', { id: `${this.#id}-help`, class: 'unseen' }, HELP));
    this.#all.addEventListener('click', event => this.#choose(EVERYTHING, event));
    this.#cells.addEventListener('pointerdown', event => this.#press(event));
    this.#cells.addEventListener('pointermove', event => this.#move(event));
    this.#cells.addEventListener('pointerup', () => this.#release());
    this.#cells.addEventListener('pointercancel', () => this.#release());
    this.#cells.addEventListener('pointerleave', () => this.#leave());
    this.#cells.addEventListener('contextmenu', event => this.#context(event));
    this.#sheet.addEventListener('keydown', event => this.#key(event));
    this.#sheet.addEventListener('blur', () => this.#hint.hide());
    this.element.addEventListener('scroll', () => {
      this.#leave();
      actions.scrolled({ x: this.element.scrollLeft, y: this.element.scrollTop });
    });
    new ResizeObserver(() => this.#ask()).observe(this.element);
  }

  /** Takes what to draw, and draws it with the next frame. */
  show(picture: Picture, selection: Selection, label: string): void {
    this.#picture = picture;
    this.#selection = selection;
    this.#shown++;
    this.#sheet.setAttribute('aria-label', label);
    this.#ask();
  }

  scrollTo({ x, y }: { readonly x: number; readonly y: number }): void {
    this.draw();
    this.element.scrollTo(x, y);
  }

  /** Follows another sheet of the same rows, and does not tell it. */
  scrollBeside({ x, y }: { readonly x: number; readonly y: number }): void {
    const { scrollLeft, scrollTop } = this.element;
    if (Math.abs(scrollLeft - x) > 1 || Math.abs(scrollTop - y) > 1) {
      this.element.scrollTo(x, y);
    }
  }

  /** Shows a layer that may be out of sight. */
  reveal(layer: string): void {
    const spot = this.#picture?.grid.spotOf(layer);
    if (spot) {
      this.#goTo(spot, false);
    }
  }

  focus(): void {
    this.#sheet.focus({ preventScroll: true });
  }

  /** Draws now. */
  draw(): void {
    const picture = this.#picture;
    const context = this.#canvas.getContext('2d');
    if (!picture || !context) {
      return;
    }
    this.#geometry = picture.measure(this.element.clientWidth - LABEL_WIDTH, this.element.clientHeight - HEADS_HEIGHT);
    this.#label(picture.grid);
    picture.paint(context, this.#geometry, fit(this.#canvas, picture.grid, this.#geometry));
    this.#placeActive();
  }

  #ask(): void {
    if (!this.#asked) {
      this.#asked = true;
      requestAnimationFrame(() => {
        this.#asked = false;
        this.draw();
      });
    }
  }

  // --- labels ----------------------------------------------------------------------------------------------------------------------

  #label(grid: Grid): void {
    const geometry = this.#geometry;
    const key = JSON.stringify([grid.columns, grid.blocks, geometry]);
    if (key === this.#labels) {
      return;
    }
    this.#labels = key;
    this.#sheet.setAttribute('aria-rowcount', String(grid.blocks.length + 1));
    this.#sheet.setAttribute('aria-colcount', String(grid.columns.length + 1));
    const choose = (spot: Spot, event: MouseEvent) => this.#choose(spot, event);
    this.#heads.replaceChildren(...columnLabels(this.#id, grid, geometry, choose));
    this.#rows.replaceChildren(...rowLabels(this.#id, grid, geometry.rowHeight, choose));
    this.#cells.style.width = `${widthOf(geometry)}px`;
    this.#cells.style.height = `${grid.blocks.length * geometry.rowHeight}px`;
  }

  // --- the mouse -------------------------------------------------------------------------------------------------------------------

  #spotOf({ clientX, clientY }: { readonly clientX: number; readonly clientY: number }, clamped = false): Spot | undefined {
    const grid = this.#picture?.grid;
    if (!grid) {
      return undefined;
    }
    const { left, top, width, height } = this.#cells.getBoundingClientRect();
    const within = (value: number, size: number) => (clamped ? Math.min(size - 1, Math.max(0, value)) : value);
    return spotAt(grid, this.#geometry, within(clientX - left, width), within(clientY - top, height));
  }

  #press(event: PointerEvent): void {
    const spot = this.#spotOf(event);
    const grid = this.#picture?.grid;
    // On a Mac, Control with a click is the right button.
    if (!spot || !grid || event.button !== 0 || (event.ctrlKey && navigator.userAgent.includes('Mac'))) {
      return;
    }
    this.#hint.hide();
    this.#active = spot;
    const mode = modeOf(event);
    const before = this.#selection;
    this.#set(choose(grid, before, spot, mode), false);
    this.#dragged = { from: this.#selection.anchor ?? spot, before: mode === 'only' ? NOTHING : before, keep: mode === 'toggle' || mode === 'add' };
    if (event.pointerType !== 'touch') {
      this.#cells.setPointerCapture(event.pointerId);
    }
  }

  #move(event: PointerEvent): void {
    const spot = this.#spotOf(event, this.#dragged !== undefined);
    const grid = this.#picture?.grid;
    if (!grid) {
      return;
    }
    if (!this.#dragged) {
      this.#hover(spot, event);
      return;
    }
    const { left, right, top, bottom } = this.element.getBoundingClientRect();
    const toward = (at: number, from: number, to: number) => (at > to - EDGE ? EDGE : at < from + EDGE ? -EDGE : 0);
    this.element.scrollBy(toward(event.clientX, left + LABEL_WIDTH, right), toward(event.clientY, top + this.#heads.clientHeight, bottom));
    if (spot && (spot.row !== this.#active.row || spot.column !== this.#active.column)) {
      this.#active = spot;
      this.#set(drag(grid, this.#dragged.before, this.#dragged.from, spot, this.#dragged.keep), false);
    }
  }

  #release(): void {
    if (this.#dragged) {
      this.#dragged = undefined;
      this.#set(this.#selection, true);
    }
  }

  #hover(spot: Spot | undefined, at: { readonly clientX: number; readonly clientY: number }): void {
    const layer = spot && this.#picture?.grid.at(spot);
    if (!layer) {
      this.#leave();
      return;
    }
    this.#place(this.#hovered, spot);
    this.#hovered.hidden = false;
    this.#hint.show(`${this.#shown} ${layer.name}`, () => this.#actions.tell(layer.name), { left: at.clientX, right: at.clientX, top: at.clientY, bottom: at.clientY });
  }

  #leave(): void {
    this.#hovered.hidden = true;
    this.#hint.hide();
  }

  #context(event: MouseEvent): void {
    event.preventDefault();
    const spot = this.#spotOf(event);
    if (spot) {
      this.#menu(spot, { x: event.clientX, y: event.clientY });
    }
  }

  #menu(spot: Spot, at: { readonly x: number; readonly y: number }): void {
    const grid = this.#picture?.grid;
    const names = grid ? [...choose(grid, NOTHING, spot, 'only').layers] : [];
    if (!grid || names.length === 0) {
      return;
    }
    this.#leave();
    if (!names.every(name => this.#selection.layers.has(name))) {
      this.#active = spot;
      this.#set(choose(grid, this.#selection, spot, 'only'), true);
    }
    this.#actions.openMenu(at, this.#sheet);
  }

  #choose(spot: Spot, event: MouseEvent): void {
    if (this.#picture) {
      this.#active = spot;
      this.#set(choose(this.#picture.grid, this.#selection, spot, modeOf(event)), true);
      this.focus();
    }
  }

  #set(selection: Selection, settled: boolean): void {
    this.#selection = selection;
    this.#actions.select(selection, settled);
  }

  // --- the keyboard ----------------------------------------------------------------------------------------------------------------

  #key(event: KeyboardEvent): void {
    const grid = this.#picture?.grid;
    if (!grid || event.altKey) {
      return;
    }
    const more = event.ctrlKey || event.metaKey;
    const spot = moved(grid, this.#active, event.key, more);
    if (spot) {
      if (event.shiftKey) {
        const anchored = this.#selection.anchor ? this.#selection : { ...this.#selection, anchor: this.#active };
        this.#set(choose(grid, anchored, spot, more ? 'add' : 'extend'), true);
      }
      this.#goTo(spot, true);
    } else if (event.key === ' ' || event.key === 'Enter') {
      this.#set(choose(grid, this.#selection, this.#active, event.shiftKey ? 'extend' : event.key === ' ' ? 'toggle' : 'only'), true);
    } else if (event.key.toLowerCase() === 'a' && more) {
      this.#set(choose(grid, this.#selection, EVERYTHING, 'only'), true);
    } else if (event.key === 'Escape') {
      this.#hint.hide();
      this.#set(NOTHING, true);
    } else if (event.key === 'ContextMenu' || (event.key === 'F10' && event.shiftKey)) {
      const { left, bottom } = (this.#activeCell ?? this.#sheet).getBoundingClientRect();
      this.#menu(this.#active, { x: left, y: bottom });
    } else {
      return;
    }
    event.preventDefault();
  }

  #goTo(spot: Spot, tell: boolean): void {
    this.#active = spot;
    this.#placeActive();
    this.#activeCell?.scrollIntoView({ block: 'nearest', inline: 'nearest' });
    const layer = this.#picture?.grid.at(spot);
    if (tell && layer && this.#activeCell) {
      // After the scrolling that this may have caused, which hides hovers.
      requestAnimationFrame(() => {
        if (this.#activeCell) {
          this.#hint.show(`${this.#shown} ${layer.name}`, () => this.#actions.tell(layer.name), this.#activeCell.getBoundingClientRect());
        }
      });
    } else {
      this.#hint.hide();
    }
  }

  /** The one cell that is an element: a thousand of them would cost more than the picture. */
  #placeActive(): void {
    const grid = this.#picture?.grid;
    if (!grid || grid.blocks.length === 0) {
      return;
    }
    const spot = { row: Math.min(this.#active.row, grid.blocks.length - 1), column: Math.min(this.#active.column, grid.columns.length - 1) };
    this.#active = spot;
    const isHead = spot.row < 0 || spot.column < 0;
    const id = `${this.#id}-${spot.row < 0 ? `head-${spot.column}` : spot.column < 0 ? `block-${spot.row}` : `cell-${spot.row}-${spot.column}`}`;
    this.#sheet.querySelectorAll('.active').forEach(element => element.classList.remove('active'));
    if (this.#activeCell?.id !== id) {
      this.#activeRow?.remove();
      this.#activeRow = undefined;
    }
    if (isHead) {
      this.#activeCell = document.getElementById(id) ?? undefined;
      this.#activeCell?.classList.add('active');
      this.#sheet.setAttribute('aria-activedescendant', id);
      return;
    }
    if (this.#activeCell?.id !== id) {
      // Another element each time: a screen reader reads what becomes active, not what changes its place.
      this.#activeCell = h('div', { role: 'gridcell', id, 'aria-colindex': String(spot.column + 2) });
      this.#activeRow = h('div', { class: 'rows', role: 'row', 'aria-rowindex': String(spot.row + 2) }, this.#activeCell);
      this.#cells.append(this.#activeRow);
    }
    const layer = grid.at(spot);
    this.#activeCell.classList.add('active');
    const empty = t('Block {0} has no {1}', grid.blocks[spot.row] ?? '', grid.columns[spot.column]?.id ?? '');
    this.#activeCell.setAttribute('aria-label', layer ? this.#actions.describe(layer.name) : empty);
    this.#activeCell.setAttribute('aria-selected', String(layer !== undefined && this.#selection.layers.has(layer.name)));
    this.#place(this.#activeCell, spot);
    this.#sheet.setAttribute('aria-activedescendant', id);
  }

  #place(element: HTMLElement, { row, column }: Spot): void {
    const { rowHeight } = this.#geometry;
    const { left, width } = columnAt(this.#geometry, column);
    element.style.transform = `translate(${left}px, ${row * rowHeight}px)`;
    element.style.width = `${width}px`;
    element.style.height = `${rowHeight - 1}px`;
  }
}

/** Sets a canvas to the size of the grid, as sharp as the screen where that is possible. Says how many pixels a CSS pixel has. */
function fit(canvas: HTMLCanvasElement, grid: Grid, geometry: Geometry): number {
  const [width, height] = [Math.max(1, widthOf(geometry)), Math.max(1, grid.blocks.length * geometry.rowHeight)];
  const ratio = Math.min(window.devicePixelRatio, MAX_SIDE / width, MAX_SIDE / height, Math.sqrt(MAX_PIXELS / (width * height)));
  const [across, down] = [Math.max(1, Math.round(width * ratio)), Math.max(1, Math.round(height * ratio))];
  if (canvas.width !== across || canvas.height !== down) {
    canvas.width = across;
    canvas.height = down;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  return ratio;
}
