/** One model of the map: its name where there are two, what is before its blocks, its layers, what is after them. */
import type { MapLayer, MapOutside } from '../../extension/protocol/types.ts';
import { h } from '../ui/dom.ts';
import type { Spot } from '../ui/grid.ts';
import { t } from '../ui/l10n.ts';
import { NOTHING, sameLayers, type Selection } from '../ui/select.ts';
import { LayerSheet, type SheetActions } from '../ui/sheet.ts';
import { type Fact, modelText } from './facts.ts';
import { OutsideBars } from './outside.ts';
import { type MapInput, mapPicture } from './paint.ts';

export interface PaneActions {
  readonly select: (names: ReadonlySet<string>, settled: boolean) => void;
  readonly openMenu: SheetActions['openMenu'];
  readonly facts: (layer: MapLayer) => readonly Fact[];
  readonly describe: (layer: MapLayer) => string;
  readonly scrolled: SheetActions['scrolled'];
}

export type PaneInput = Omit<MapInput, 'measured'> & { readonly isOne: boolean };

const BEFORE: ReadonlySet<MapOutside['name']> = new Set(['embedding']);

export class Pane {
  readonly element: HTMLElement;
  readonly #name = h('h2', {});
  readonly #facts = h('p', { class: 'note' });
  readonly #sheet: LayerSheet;
  readonly #before = new OutsideBars(t('Before the blocks'));
  readonly #after = new OutsideBars(t('After the blocks'));
  #input: PaneInput | undefined;
  #label = '';
  #selection: Selection = NOTHING;

  constructor(actions: PaneActions) {
    const layer = (name: string) => this.#input?.side.model.layers.find(own => own.name === name);
    this.#sheet = new LayerSheet({
      select: (selection, settled) => {
        this.#selection = selection;
        actions.select(selection.layers, settled);
      },
      openMenu: actions.openMenu,
      tell: name => {
        const own = layer(name);
        const facts = own ? actions.facts(own) : [];
        return h('div', {}, h('strong', {}, own ? t('Block {0} · {1}', own.block, own.column) : name), h('dl', {}, ...facts.map(([fact, text]) => h('div', {}, h('dt', {}, fact), h('dd', {}, text)))));
      },
      describe: name => {
        const own = layer(name);
        return own ? actions.describe(own) : name;
      },
      scrolled: actions.scrolled,
    });
    this.#sheet.element.prepend(this.#before.element);
    this.#sheet.element.append(this.#after.element);
    this.element = h('section', { class: 'pane' }, this.#name, this.#facts, this.#sheet.element);
  }

  show(input: PaneInput, label: string): void {
    const { model } = input.side;
    this.#input = input;
    this.#label = label;
    this.#name.hidden = this.#facts.hidden = input.isOne;
    this.#name.textContent = model.name;
    this.#facts.textContent = this.#facts.title = modelText(model);
    this.#name.title = model.path;
    this.element.setAttribute('aria-label', model.name);
    this.#draw(input.selected);
  }

  choose(selected: ReadonlySet<string>): void {
    this.#draw(selected);
  }

  reveal(spot: Spot): void {
    const layer = this.#input?.side.grid.at(spot);
    if (layer) {
      this.#sheet.reveal(layer.name);
    }
  }

  /** The other model was scrolled. */
  follow(at: { readonly x: number; readonly y: number }): void {
    if (this.element.isConnected) {
      this.#sheet.scrollBeside(at);
    }
  }

  #draw(selected: ReadonlySet<string>): void {
    const input = this.#input;
    if (!input) {
      return;
    }
    if (!sameLayers(selected, this.#selection.layers)) {
      this.#selection = { layers: selected, anchor: undefined };
    }
    const { outside } = input.side.model;
    const picture = mapPicture({
      ...input,
      selected,
      measured: (geometry, pixels) => {
        this.#before.show(outside.filter(({ name }) => BEFORE.has(name)), geometry, pixels);
        this.#after.show(outside.filter(({ name }) => !BEFORE.has(name)), geometry, pixels);
      },
    });
    this.#sheet.show(picture, this.#selection, this.#label);
  }
}
