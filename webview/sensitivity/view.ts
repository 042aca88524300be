/** The sensitivity view: what it shows follows from the profile, the run, the plan and what the user has chosen. */
import type { HostMessage } from '../../extension/protocol/types.ts';
import { ProfileFold } from '../../extension/profile/fold.ts';
import { isActive } from '../../extension/runs/run.ts';
import { Asker, type Request } from '../ui/asker.ts';
import { h } from '../ui/dom.ts';
import { t } from '../ui/l10n.ts';
import { showMenu } from '../ui/menu.ts';
import { RunStrip } from '../ui/runStrip.ts';
import { onThemeChange, readTheme } from '../ui/theme.ts';
import { busy, button } from '../ui/toolkit.ts';
import { type Content, contentOf, valuesOf } from './content.ts';
import { CurvesView } from './curves.ts';
import { ExchangeView } from './exchange.ts';
import { fileOf, type FileKind } from './exports.ts';
import { factsOf, lineOf, sizeText } from './facts.ts';
import type { Axis } from './figures.ts';
import { figureBlocks } from '../ui/grid.ts';
import { Head } from './head.ts';
import { legend } from './legend.ts';
import { LayerSheet } from '../ui/sheet.ts';
import { heatmap } from './heatmap.ts';
import { titleOf } from './marks.ts';
import { columnsOf, type Row, rowsOf } from './rows.ts';
import { choose, modeOf, sameLayers, type Selection } from '../ui/select.ts';
import type { ViewState } from './state.ts';
import { TableView } from '../ui/layerTable.ts';
import { Toolbar } from './toolbar.ts';

type Plan = Extract<HostMessage, { type: 'plan' }>;

export interface Outside {
  readonly request: Request;
  readonly save: (state: ViewState) => void;
}

/** Curves and table follow the picture at this distance: they cost more, and nobody reads them while a slider moves. */
const CALM_MS = 150;

export class SensitivityView {
  readonly element = h('main', {});
  readonly #asker: Asker;
  readonly #store: Outside['save'];
  readonly #head = new Head();
  readonly #spoken = h('p', { class: 'unseen', 'aria-live': 'polite' });
  readonly #legend = h('div', { class: 'legend' });
  readonly #picture = h('section', { class: 'picture', 'aria-label': t('Sensitivity') });
  readonly #run: RunStrip;
  readonly #cancel = button(t('Cancel'), () => this.#asker.ask('cancelRun'));
  readonly #toolbar: Toolbar;
  readonly #map: LayerSheet;
  readonly #table: TableView<Row>;
  readonly #curves = new CurvesView(() => this.#selectFigure());
  readonly #exchange: ExchangeView;
  #state: ViewState;
  #fold = new ProfileFold();
  #notes: readonly string[] = [];
  #plan: Plan | undefined;
  #content: Content | undefined;
  #selection: Selection;
  #theme = readTheme();
  #awaited = false;
  #telling: ReturnType<typeof setTimeout> | undefined;

  constructor(state: ViewState, outside: Outside) {
    this.#state = state;
    this.#asker = new Asker(outside.request);
    this.#store = outside.save;
    this.#selection = { layers: new Set(state.selected), anchor: undefined };
    this.#run = new RunStrip(t('Profile run'), button(t('Show Run'), () => this.#asker.ask('showRun')), this.#cancel);
    this.#toolbar = new Toolbar({
      metric: metric => this.#change({ metric }),
      axis: axis => this.#change({ axis, size: this.#otherSize(axis) }),
      size: size => this.#change({ size }),
      table: table => this.#change({ table }),
      overlay: overlay => this.#change({ overlay }),
      plan: () => this.#asker.ask('planCompression'),
      exports: [
        { label: t('Copy as CSV'), act: () => this.#copy() },
        { label: t('Save as CSV…'), act: () => this.#save('csv') },
        { label: t('Save as PNG…'), act: () => this.#save('png'), first: true },
        { label: t('Save as SVG…'), act: () => this.#save('svg') },
      ],
    });
    this.#map = new LayerSheet({
      select: (selection, settled) => this.#select(selection, settled),
      openMenu: (at, from) => this.#menu(at, from),
      tell: layer => this.#hover(layer),
      describe: layer => this.#describe(layer),
      scrolled: scroll => this.#remember({ scroll }),
    });
    this.#table = new TableView({
      sort: sort => this.#change({ sort }),
      select: (layer, event) => this.#click(layer, event),
      openMenu: (layer, at, from) => {
        if (!this.#selection.layers.has(layer)) {
          this.#select({ layers: new Set([layer]), anchor: undefined }, true);
        }
        this.#menu(at, from);
      },
    });
    this.#exchange = new ExchangeView(share => this.#asker.ask('planCompression', share));
    this.element.append(busy(t('Reading the profile…')), this.#run.element);
    onThemeChange(() => {
      this.#theme = readTheme();
      this.#update();
    });
  }

  take(message: Exclude<HostMessage, { type: 'reply' }>): void {
    switch (message.type) {
      case 'sensitivity':
        this.#fold = new ProfileFold();
        this.#fold.start(message.profile);
        this.#notes = message.notes ?? [];
        break;
      case 'cells':
        this.#fold.merge(message);
        break;
      case 'profileRun':
        this.#run.show(message.status && isActive(message.status.state) ? message.status : null);
        this.#cancel.hidden = message.status?.state === 'cancelling';
        return;
      case 'selection':
        this.#follow(message.layers);
        return;
      case 'plan':
        this.#plan = message;
        break;
      default:
        return; // another panel's
    }
    this.#update();
  }

  // --- drawing ---------------------------------------------------------------------------------------------------------------------

  #update(): void {
    const profile = this.#fold.value;
    if (!profile) {
      return;
    }
    const isFirst = !this.#content;
    this.#content = contentOf(profile, this.#state, this.#content);
    const { metrics, sizes, shown } = this.#content;
    this.#head.show(profile, this.#notes);
    this.#toolbar.show(shown, metrics, sizes, this.#state.table, this.#plan?.name ?? undefined, this.#state.overlay);
    this.#drawPicture();
    this.#later();
    if (isFirst) {
      this.element.replaceChildren(
        h('header', {}, this.#head.element, this.#asker.problem, this.#run.element, this.#toolbar.element),
        this.#picture,
        h('div', { class: 'beside' }, this.#curves.element, this.#exchange.element),
        this.#spoken,
      );
      this.#map.scrollTo(this.#state.scroll);
    }
  }

  #drawPicture(): void {
    const content = this.#content;
    if (!content) {
      return;
    }
    const { figures, grid, shown } = content;
    const { metric, axis, size } = shown;
    this.element.classList.toggle('table-shown', this.#state.table);
    if (this.#state.table) {
      this.#put(this.#table.element);
      return;
    }
    this.#put(this.#map.element, this.#legend);
    const values = valuesOf(content);
    const scale = figures.scale(metric);
    const label = t('Heatmap of {0} layers: {1}, {2}. {3} have a figure.', figures.profile.layers.length, metric.name, sizeText(axis, size), values.filter(Boolean).length);
    this.#map.show(heatmap({ grid, values, scale, selected: this.#selection.layers, overlay: this.#overlay(), theme: this.#theme }), this.#selection, label);
    const baseline = figures.profile.cells?.length || metric.curve ? figures.baseline(metric) : undefined;
    const missing = values.filter(Boolean).length < figures.profile.layers.length;
    this.#legend.replaceChildren(
      ...legend({ metric, scale, baseline, theme: this.#theme, missing, noise: values.some(value => value?.noise), plan: this.#overlay() && (this.#plan?.name ?? undefined) }),
    );
  }

  /** What need not follow at once. */
  #later(): void {
    if (!this.#awaited) {
      this.#awaited = true;
      setTimeout(() => {
        this.#awaited = false;
        this.#drawRest();
      }, CALM_MS);
    }
  }

  #drawRest(): void {
    const content = this.#content;
    if (!content) {
      return;
    }
    const { figures, grid, shown } = content;
    if (this.#state.table) {
      const plan = this.#overlay();
      const caption = `${titleOf(shown.metric)}, ${sizeText(shown.axis, shown.size)}`;
      this.#table.show(caption, rowsOf(figures, shown, plan), columnsOf(shown.metric, plan !== undefined), this.#state.sort, this.#selection.layers);
    }
    this.#head.showCorrelation(figures.correlation);
    this.#curves.show(grid, figures, this.#selection.layers, shown, this.#theme);
    this.#exchange.show(this.#overlay() ? this.#plan?.plan : null, this.#plan?.name, this.#theme);
  }

  #put(...children: readonly HTMLElement[]): void {
    if (children.some((child, index) => this.#picture.children[index] !== child) || this.#picture.children.length !== children.length) {
      this.#picture.replaceChildren(...children);
    }
  }

  #overlay(): Readonly<Record<string, number>> | undefined {
    return this.#state.overlay ? (this.#plan?.layers ?? undefined) : undefined;
  }

  #hover(name: string): Node {
    const layer = this.#content?.figures.layer(name);
    const facts = this.#facts(name).map(([label, text]) => h('div', {}, h('dt', {}, label), h('dd', {}, text)));
    return h('div', {}, h('strong', {}, layer ? t('Block {0} · {1}', layer.block, layer.column) : name), h('dl', {}, ...facts));
  }

  #describe(name: string): string {
    const layer = this.#content?.figures.layer(name);
    return layer ? lineOf(layer, this.#facts(name)) : name;
  }

  #facts(name: string) {
    const layer = this.#content?.figures.layer(name);
    return this.#content && layer ? factsOf(this.#content.figures, layer, this.#content.shown, this.#overlay()?.[name]) : [];
  }

  // --- choosing --------------------------------------------------------------------------------------------------------------------

  #change(change: Partial<ViewState>): void {
    this.#remember(change);
    this.#update();
  }

  #remember(change: Partial<ViewState>): void {
    this.#state = { ...this.#state, ...change };
    this.#store(this.#state);
  }

  /** The size by the other axis that most layers have at the one that is shown. */
  #otherSize(axis: Axis): number | undefined {
    const content = this.#content;
    const found = content ? valuesOf(content).flatMap(value => (value ? [value[axis]] : [])) : [];
    return found.sort((a, b) => a - b)[Math.floor(found.length / 2)];
  }

  #select(selection: Selection, settled: boolean): void {
    const before = this.#selection;
    this.#selection = selection;
    this.#drawPicture();
    if (!settled) {
      return;
    }
    this.#later();
    if (sameLayers(before.layers, selection.layers) && sameLayers(new Set(this.#state.selected), selection.layers)) {
      return;
    }
    const layers = [...selection.layers];
    this.#remember({ selected: layers });
    this.#spoken.textContent = layers.length === 1 ? t('{0} selected', layers[0] ?? '') : t('{0} layers selected', layers.length);
    clearTimeout(this.#telling);
    this.#telling = setTimeout(() => {
      this.#telling = undefined;
      this.#asker.ask('selectLayers', undefined, { layers });
    }, CALM_MS);
  }

  #click(layer: string, event: MouseEvent): void {
    const spot = this.#content?.grid.spotOf(layer);
    if (this.#content && spot) {
      this.#select(choose(this.#content.grid, this.#selection, spot, modeOf(event)), true);
    }
  }

  /** The tree's selection, unless the user has just made another here. */
  #follow(layers: readonly string[]): void {
    if (this.#telling !== undefined || this.#asker.isWaiting) {
      return;
    }
    this.#selection = { layers: new Set(layers), anchor: undefined };
    this.#remember({ selected: layers });
    this.#drawPicture();
    this.#later();
    const [first] = layers;
    if (first !== undefined) {
      this.#map.reveal(first);
    }
  }

  #selectFigure(): void {
    const content = this.#content;
    if (content) {
      const blocks = new Set(figureBlocks(content.grid.blocks));
      const layers = content.figures.profile.layers.filter(({ block }) => blocks.has(block)).map(({ name }) => name);
      this.#select({ layers: new Set(layers), anchor: undefined }, true);
    }
  }

  // --- doing -----------------------------------------------------------------------------------------------------------------------

  #menu(at: { readonly x: number; readonly y: number }, from: HTMLElement): void {
    const layers = [...this.#selection.layers];
    const [first] = layers;
    const label = layers.length === 1 ? (first ?? '') : t('{0} layers', layers.length);
    showMenu(
      label,
      [
        { label: t('Tensorize…'), act: () => this.#asker.ask('tensorizeLayers', undefined, { layers }) },
        { label: t('Exclude From Plan'), act: () => this.#asker.ask('excludeLayers', undefined, { layers }) },
        { label: t('Profile These Layers…'), act: () => this.#asker.ask('profileLayers', undefined, { layers }) },
        { label: t('Show Curves'), act: () => this.#showCurves(), first: true },
        { label: t('Reveal in Tree'), act: () => this.#asker.ask('revealLayer', first) },
      ],
      at,
      from,
    );
  }

  #showCurves(): void {
    this.#drawRest();
    this.#curves.element.scrollIntoView({ block: 'nearest' });
    this.#curves.element.focus({ preventScroll: true });
  }

  #copy(): void {
    if (this.#content) {
      this.#asker.ask('copyText', fileOf('csv', this.#content, undefined, this.#theme).text);
      this.#spoken.textContent = t('Copied as CSV');
    }
  }

  #save(kind: FileKind): void {
    if (this.#content) {
      const { name, text } = fileOf(kind, this.#content, this.#overlay(), this.#theme);
      this.#asker.ask('saveFile', text, { name });
    }
  }
}
