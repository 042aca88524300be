/** The map: what it shows follows from the models, the selection and what the user has chosen. */
import type { HostMessage, MapChoice, MapLayer } from '../../extension/protocol/types.ts';
import { Asker, type Request } from '../ui/asker.ts';
import { choice, switcher } from '../ui/controls.ts';
import { h } from '../ui/dom.ts';
import { t } from '../ui/l10n.ts';
import { TableView } from '../ui/layerTable.ts';
import { showMenu } from '../ui/menu.ts';
import { choose, modeOf, sameLayers } from '../ui/select.ts';
import { onThemeChange, readTheme } from '../ui/theme.ts';
import { busy, button } from '../ui/toolkit.ts';
import { borrow, COLOURS, type Colours, coloursOf, firstChoice, hintOf, nameOf } from './colours.ts';
import { columnsOf, factsOf, lineOf, modelText } from './facts.ts';
import { legend } from './legend.ts';
import { mapMenu } from './menu.ts';
import { type Pair, pairOf, placeOf, placesOf, type PlacedPair, type Side } from './pair.ts';
import { Pane } from './pane.ts';
import type { MapState } from './state.ts';

export interface Outside {
  readonly request: Request;
  readonly save: (state: MapState) => void;
}

/** Milliseconds without a further choice before the tree is told. */
const CALM_MS = 150;

export class MapView {
  readonly element = h('main', {}, busy(t('Reading the model…')));
  readonly #asker: Asker;
  readonly #save: Outside['save'];
  readonly #title = h('h1', {});
  readonly #lead = h('p', { class: 'lead' });
  readonly #colour = choice(t('Colour'), id => this.#change({ colour: COLOURS.find(by => by === id) ?? 'precision' }));
  readonly #beside = choice(t('Beside'), folder => this.#showBeside(folder));
  readonly #view = switcher<'map' | 'table'>(
    t('View'),
    [
      { id: 'map', name: t('Map'), hint: t('Blocks by layers, coloured') },
      { id: 'table', name: t('Table'), hint: t('The same numbers as a table') },
    ],
    id => this.#change({ table: id === 'table' }),
  );
  readonly #difference = button(t('Compare Tensors'), () => this.#compareTensors());
  readonly #problem = h('p', { role: 'alert', class: 'problem' });
  readonly #body = h('div', { class: 'panes' });
  readonly #legend = h('div', { class: 'legend' });
  readonly #spoken = h('p', { class: 'unseen', 'aria-live': 'polite' });
  readonly #panes: readonly [Pane, Pane];
  readonly #table: TableView<PlacedPair>;
  #state: MapState;
  #pair: Pair | undefined;
  #choices: readonly MapChoice[] = [];
  #borrowed: ReadonlyMap<string, NonNullable<MapLayer['sensitivity']>> = new Map();
  /** Places. */
  #selected: ReadonlySet<string>;
  #theme = readTheme();
  #telling: ReturnType<typeof setTimeout> | undefined;

  constructor(state: MapState, outside: Outside) {
    this.#state = state;
    this.#selected = new Set(state.selected);
    this.#asker = new Asker(outside.request);
    this.#save = outside.save;
    const pane = (index: 0 | 1) =>
      new Pane({
        select: (names, settled) => this.#select(index, names, settled),
        openMenu: (at, from) => this.#menu(index, at, from),
        facts: layer => factsOf(layer, this.#borrowed.get(layer.name)),
        describe: layer => lineOf(layer, factsOf(layer, this.#borrowed.get(layer.name))),
        scrolled: at => this.#panes[index === 0 ? 1 : 0].follow(at),
      });
    this.#panes = [pane(0), pane(1)];
    this.#table = new TableView<PlacedPair>({
      sort: sort => this.#change({ sort }),
      select: (layer, event) => this.#click(layer, event),
      openMenu: (layer, at, from) => {
        const place = this.#placeOf(layer);
        if (place !== undefined && !this.#selected.has(place)) {
          this.#choose(new Set([place]), 0);
        }
        this.#menu(0, at, from);
      },
    });
    onThemeChange(() => {
      this.#theme = readTheme();
      this.#draw();
    });
  }

  take(message: Exclude<HostMessage, { type: 'reply' }>): void {
    if (message.type === 'map') {
      const isFirst = !this.#pair;
      this.#pair = pairOf(message.model, message.beside);
      this.#choices = message.choices ?? [];
      this.#borrowed = borrow(this.#pair);
      this.#problem.textContent = message.problem ?? '';
      this.#remember({ folder: message.model.path, beside: message.beside?.path ?? '' });
      if (isFirst) {
        this.#build();
      }
      this.#draw();
    } else if (message.type === 'selection') {
      this.#follow(message.folder ?? undefined, message.layers);
    }
  }

  // --- drawing ---------------------------------------------------------------------------------------------------------------------

  #build(): void {
    const toolbar = h(
      'div',
      { class: 'toolbar', role: 'toolbar', 'aria-label': t('What is shown') },
      this.#colour.element,
      this.#beside.element,
      this.#view.element,
      h('div', { class: 'buttons' }, this.#difference),
    );
    this.element.replaceChildren(h('header', {}, this.#title, this.#lead, this.#asker.problem, this.#problem, toolbar), this.#body, this.#legend, this.#spoken);
  }

  #draw(): void {
    const pair = this.#pair;
    if (!pair) {
      return;
    }
    const [first, second] = pair.sides;
    const by = this.#state.colour ?? firstChoice(pair);
    this.#title.textContent = second ? t('{0} and {1}', first.model.name, second.model.name) : first.model.name;
    const count = t('{0} blocks, {1} layers', first.grid.blocks.length, first.model.layers.length);
    this.#lead.textContent = second ? count : `${count} · ${modelText(first.model)}`;
    this.#colour.show(COLOURS.map(id => ({ id, name: nameOf(id), hint: hintOf(id) })), by);
    const none = { id: '', name: this.#choices.length === 0 ? t('no other model here') : t('no second model') };
    this.#beside.show([none, ...this.#choices.map(({ name, path, hint }) => ({ id: path, name, hint }))], second?.model.path ?? '');
    this.#view.show(this.#state.table ? 'table' : 'map');
    this.#difference.hidden = !second;
    const colours = coloursOf(by, pair, this.#theme.dark);
    if (this.#state.table) {
      this.#drawTable(pair);
      this.#body.replaceChildren(this.#table.element);
    } else {
      this.#put(this.#panes.slice(0, pair.sides.length).map(({ element }) => element));
      this.#drawPanes(pair, colours);
    }
    this.#legend.hidden = this.#state.table;
    const isMissing = pair.sides.some(({ model }) => model.layers.some(layer => !colours.of(this.#lent(layer))));
    this.#legend.replaceChildren(...legend(colours, this.#theme, isMissing));
  }

  #drawPanes(pair: Pair, colours: Colours): void {
    pair.sides.forEach((side, index) => {
      const label = t('Map of {0}: {1} layers in {2} blocks, coloured by {3}', side.model.name, side.model.layers.length, side.grid.blocks.length, colours.title);
      this.#panes[index]?.show({ pair, side, colourOf: layer => colours.of(this.#lent(layer)), theme: this.#theme, selected: this.#namesOf(side), isOne: pair.sides.length === 1 }, label);
    });
  }

  #drawTable(pair: Pair): void {
    const [first, second] = pair.sides;
    const caption = second ? t('Layers of {0} (1st) and {1} (2nd)', first.model.name, second.model.name) : t('Layers of {0}', first.model.name);
    const selected = new Set(placesOf(pair).flatMap(({ layer }) => (this.#selected.has(placeOf(layer)) ? [layer.name] : [])));
    this.#table.show(caption, placesOf(pair), columnsOf(pair, this.#borrowed), this.#state.sort, selected);
  }

  #put(children: readonly HTMLElement[]): void {
    this.#body.classList.toggle('two', children.length > 1);
    if (children.length !== this.#body.children.length || children.some((child, index) => this.#body.children[index] !== child)) {
      this.#body.replaceChildren(...children);
    }
  }

  /** A layer with the sensitivity that is lent to it. */
  #lent(layer: MapLayer): MapLayer {
    const lent = layer.sensitivity ? undefined : this.#borrowed.get(layer.name);
    return lent ? { ...layer, sensitivity: lent } : layer;
  }

  // --- choosing --------------------------------------------------------------------------------------------------------------------

  #change(change: Partial<MapState>): void {
    this.#remember(change);
    this.#draw();
  }

  #remember(change: Partial<MapState>): void {
    this.#state = { ...this.#state, ...change };
    this.#save(this.#state);
  }

  #showBeside(folder: string): void {
    this.#asker.ask('showBeside', folder);
  }

  #select(index: 0 | 1, names: ReadonlySet<string>, settled: boolean): void {
    const side = this.#side(index);
    const places = new Set(side?.model.layers.filter(({ name }) => names.has(name)).map(placeOf));
    if (settled) {
      this.#choose(places, index);
    } else {
      this.#selected = places;
      this.#redraw();
    }
  }

  #click(layer: string, event: MouseEvent): void {
    const pair = this.#pair;
    const place = this.#placeOf(layer);
    if (!pair || place === undefined) {
      return;
    }
    const side = pair.sides.findIndex(({ grid }) => grid.has(layer));
    const { grid } = pair.sides[side] ?? pair.sides[0];
    const spot = grid.spotOf(layer);
    const before = { layers: this.#namesOf(pair.sides[side] ?? pair.sides[0]), anchor: undefined };
    if (spot) {
      this.#select(side === 1 ? 1 : 0, choose(grid, before, spot, modeOf(event)).layers, true);
    }
  }

  /** @param index of the side in which they were chosen: the tree shows those of its model. */
  #choose(places: ReadonlySet<string>, index: 0 | 1): void {
    const isSame = sameLayers(places, new Set(this.#state.selected));
    this.#selected = places;
    this.#redraw();
    if (isSame) {
      return;
    }
    this.#remember({ selected: [...places] });
    const layers = this.#chosenOf(index);
    this.#spoken.textContent = layers.length === 1 ? t('{0} selected', layers[0]?.name ?? '') : t('{0} layers selected', layers.length);
    clearTimeout(this.#telling);
    this.#telling = setTimeout(() => {
      this.#telling = undefined;
      this.#asker.ask('selectLayers', this.#side(index)?.model.path, { layers: layers.map(({ name }) => name) });
    }, CALM_MS);
  }

  #redraw(): void {
    const pair = this.#pair;
    if (pair && this.#state.table) {
      this.#drawTable(pair);
    } else if (pair) {
      pair.sides.forEach((side, index) => this.#panes[index]?.choose(this.#namesOf(side)));
    }
  }

  /** What was selected elsewhere, unless the user has just made another choice here. */
  #follow(folder: string | undefined, layers: readonly string[]): void {
    const side = this.#pair?.sides.find(({ model }) => model.path === folder);
    if (!side || this.#telling !== undefined || this.#asker.isWaiting) {
      return;
    }
    const names = new Set(layers);
    const found = side.model.layers.filter(({ name }) => names.has(name));
    this.#selected = new Set(found.map(placeOf));
    this.#remember({ selected: [...this.#selected] });
    this.#redraw();
    const [first] = found;
    const spot = first && side.grid.spotOf(first.name);
    if (spot) {
      this.#panes.forEach(pane => pane.reveal(spot));
    }
  }

  #namesOf(side: Side): ReadonlySet<string> {
    return new Set(side.model.layers.filter(layer => this.#selected.has(placeOf(layer))).map(({ name }) => name));
  }

  /** Undefined where there is one model only. */
  #side(index: 0 | 1): Side | undefined {
    const sides: readonly Side[] = this.#pair?.sides ?? [];
    return sides[index];
  }

  #chosenOf(index: 0 | 1): readonly MapLayer[] {
    return this.#side(index)?.model.layers.filter(layer => this.#selected.has(placeOf(layer))) ?? [];
  }

  #placeOf(name: string): string | undefined {
    const found = this.#pair?.sides.flatMap(({ model }) => model.layers).find(layer => layer.name === name);
    return found && placeOf(found);
  }

  // --- doing -----------------------------------------------------------------------------------------------------------------------

  #menu(index: 0 | 1, at: { readonly x: number; readonly y: number }, from: HTMLElement): void {
    const own = this.#chosenOf(index);
    const side = own.length > 0 ? index : 1;
    const layers = own.length > 0 ? own : this.#chosenOf(1);
    const folder = this.#side(side)?.model.path;
    if (folder !== undefined && layers.length > 0) {
      const label = layers.length === 1 ? (layers[0]?.name ?? '') : t('{0} layers', layers.length);
      showMenu(label, mapMenu(layers, method => this.#asker.ask(method, folder, { layers: layers.map(({ name }) => name) })), at, from);
    }
  }

  #compareTensors(): void {
    const other = this.#side(1)?.model.path;
    if (other !== undefined) {
      this.#asker.ask('compareTensors', other);
    }
  }
}

