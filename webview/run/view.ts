/** The run panel: what it shows follows from the run, what its training has told, and what the user has chosen. */
import type { HostMessage, RunView } from '../../extension/protocol/types.ts';
import { HealFold } from '../../extension/runs/healFold.ts';
import { isActive } from '../../extension/runs/run.ts';
import { Asker, type Request } from '../ui/asker.ts';
import { switcher } from '../ui/controls.ts';
import { h } from '../ui/dom.ts';
import { t } from '../ui/l10n.ts';
import { RunStrip } from '../ui/runStrip.ts';
import { onThemeChange, readTheme } from '../ui/theme.ts';
import { busy, button } from '../ui/toolkit.ts';
import { HealCharts } from './charts.ts';
import { leadOf, stateLine, type Tile, tilesOf } from './facts.ts';
import { MeasuredFigures } from './figures.ts';
import { Samples } from './samples.ts';
import type { ViewState } from './state.ts';
import { tableView } from './table.ts';

/** Milliseconds between two tables: they cost more than charts, and a reader's place in one is to stay. */
const TABLE_PACE = 2000;

export class RunPanelView {
  readonly element = h('main', {}, busy(t('Reading the run…')));
  readonly #asker: Asker;
  readonly #save: (state: ViewState) => void;
  readonly #title = h('h1', {});
  readonly #lead = h('p', { class: 'lead' });
  readonly #notes = h('ul', { class: 'notes', hidden: '' });
  readonly #error = h('div', { class: 'problem', role: 'alert' });
  readonly #tiles = h('dl', { class: 'tiles' });
  readonly #cancel: HTMLElement;
  readonly #finish: HTMLElement;
  readonly #resume: HTMLElement;
  readonly #model: HTMLElement;
  readonly #compare: HTMLElement;
  readonly #strip: RunStrip;
  readonly #charts = new HealCharts(step => this.#choose(step));
  readonly #table = h('div', {});
  readonly #switch;
  readonly #training: HTMLElement;
  readonly #samples = new Samples(step => this.#choose(step));
  readonly #measured = new MeasuredFigures();
  #state: ViewState;
  #fold = new HealFold();
  #run: RunView | undefined;
  #theme = readTheme();
  #drawing = false;
  #tabled = 0;

  constructor(state: ViewState, outside: { readonly request: Request; readonly save: (state: ViewState) => void }) {
    this.#state = state;
    this.#save = outside.save;
    this.#asker = new Asker(outside.request);
    const ask = (...request: Parameters<Request>) => () => this.#asker.ask(...request);
    this.#resume = button(t('Resume'), ask('resumeRun'), 'primary');
    this.#compare = button(t('Compare'), ask('compare'), 'primary');
    this.#model = button(t('Show Model'), ask('showModel'));
    this.#finish = button(t('Stop and Keep Best'), ask('finishRun'));
    this.#finish.title = t('Validates at the next step, stops, and writes the model with the best cores so far');
    this.#cancel = button(t('Cancel'), ask('cancelRun'));
    this.#cancel.title = t('Stops and keeps a checkpoint to resume from; no model is written');
    const command = button(t('Copy Command'), ask('copyCommand'));
    command.title = t('The command line that does this run: here, by torchrun on several GPUs, or on several machines');
    this.#strip = new RunStrip(t('Run'), this.#resume, this.#compare, this.#model, this.#finish, this.#cancel, command, button(t('Show Log'), ask('showLog')));
    this.#switch = switcher(
      t('Training as'),
      [
        { id: 'charts', name: t('Charts'), hint: t('Curves over the steps') },
        { id: 'table', name: t('Table'), hint: t('The same as numbers') },
      ],
      id => this.#change({ table: id === 'table' }),
    );
    this.#training = h('section', { 'aria-labelledby': 'training', hidden: '' }, h('div', { class: 'headline' }, h('h2', { id: 'training' }, t('Training')), this.#switch.element), this.#charts.element, this.#table);
    onThemeChange(() => {
      this.#theme = readTheme();
      this.#soon();
    });
  }

  take(message: Extract<HostMessage, { type: 'run' | 'heal' }>): void {
    if (message.type === 'run') {
      if (!this.#run) {
        this.element.replaceChildren(
          h('header', {}, this.#title, this.#lead, this.#asker.problem, this.#error, this.#strip.element, this.#notes),
          this.#tiles,
          this.#training,
          this.#samples.element,
          this.#measured.element,
        );
      }
      this.#run = message.run;
      this.#save({ ...this.#state, directory: message.run.directory });
      this.#state = { ...this.#state, directory: message.run.directory };
    } else {
      if (message.whole) {
        this.#fold = new HealFold();
      }
      this.#fold.merge(message.history);
    }
    this.#soon();
  }

  #change(change: Partial<ViewState>): void {
    this.#state = { ...this.#state, ...change };
    this.#save(this.#state);
    this.#tabled = 0;
    this.#soon();
  }

  #choose(step: number | undefined): void {
    this.#change({ step });
  }

  /** Once a frame, however much has come. */
  #soon(): void {
    if (!this.#drawing) {
      this.#drawing = true;
      requestAnimationFrame(() => {
        this.#drawing = false;
        this.#draw();
      });
    }
  }

  #draw(): void {
    const run = this.#run;
    if (!run) {
      return;
    }
    const history = this.#fold.value;
    this.#title.textContent = run.title;
    this.#lead.textContent = leadOf(run, history);
    this.#drawState(run);
    drawTiles(this.#tiles, tilesOf(run, history));
    this.#training.hidden = !history || history.steps.length + history.validations.length === 0;
    this.#switch.show(this.#state.table ? 'table' : 'charts');
    this.#charts.element.hidden = this.#state.table;
    this.#table.hidden = !this.#state.table;
    if (history && this.#state.table) {
      this.#drawTable();
    } else if (history) {
      this.#charts.show(run, history, this.#theme);
    }
    if (history) {
      this.#samples.show(history, this.#state.step);
    }
    this.#measured.show(run);
  }

  #drawState(run: RunView): void {
    const active = isActive(run.state);
    this.#strip.show(run.status ? { ...run.status, state: run.state } : { version: 1, state: run.state, updated: '' }, stateLine(run));
    this.#cancel.hidden = !active || run.state === 'cancelling';
    this.#finish.hidden = run.state !== 'running' || run.stopping === true || (this.#fold.value?.steps.length ?? 0) === 0;
    this.#resume.hidden = run.request === null || !['interrupted', 'cancelled', 'failed'].includes(run.state);
    this.#compare.hidden = this.#model.hidden = run.state !== 'done';
    const { error } = run;
    const told = error && !active ? [error.message, error.remedy].filter(Boolean).join(' ') : '';
    if (this.#error.textContent !== told) {
      this.#error.textContent = told;
    }
    const warnings = run.warnings ?? [];
    this.#notes.hidden = warnings.length === 0;
    if (this.#notes.childElementCount !== warnings.length) {
      this.#notes.replaceChildren(...warnings.map(text => h('li', {}, text)));
    }
  }

  #drawTable(): void {
    const [run, history] = [this.#run, this.#fold.value];
    const now = performance.now();
    if (!run || !history || (this.#tabled > 0 && now - this.#tabled < TABLE_PACE)) {
      return;
    }
    this.#tabled = now;
    const before = this.#table.firstElementChild?.scrollTop ?? 0;
    const table = tableView(run, history);
    const focused = this.#table.contains(document.activeElement);
    this.#table.replaceChildren(table);
    table.scrollTop = before;
    if (focused) {
      table.focus();
    }
  }
}

/** In place, so that a screen reader's cursor is not thrown out four times a second. */
function drawTiles(list: HTMLElement, tiles: readonly Tile[]): void {
  while (list.childElementCount > tiles.length) {
    list.lastElementChild?.remove();
  }
  tiles.forEach(({ name, value, note, hint }, index) => {
    const tile = list.children[index] ?? list.appendChild(h('div', {}, h('dt', {}), h('dd', { class: 'value' }), h('dd', { class: 'note' })));
    tile.setAttribute('title', hint);
    [name, value, note].forEach((text, part) => {
      const place = tile.children[part];
      if (place && place.textContent !== text) {
        place.textContent = text;
      }
    });
  });
}
