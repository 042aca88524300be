/** The report: what there is to know in words, tables, charts, what the models write; and the ways out of it. */
import type { Benchmark, HostBenchmark, HostMessage } from '../../extension/protocol/types.ts';
import { formatBytes } from '../../extension/runs/format.ts';
import { isActive } from '../../extension/runs/run.ts';
import { Asker, type Request } from '../ui/asker.ts';
import { choice } from '../ui/controls.ts';
import { h } from '../ui/dom.ts';
import { drawing } from '../ui/drawing.ts';
import { t } from '../ui/l10n.ts';
import { showMenu } from '../ui/menu.ts';
import { pngOf } from '../ui/png.ts';
import { RunStrip } from '../ui/runStrip.ts';
import type { Scene } from '../ui/scene.ts';
import { svgOf } from '../ui/svg.ts';
import { onThemeChange, readTheme, type Theme } from '../ui/theme.ts';
import { busy, button } from '../ui/toolkit.ts';
import { barsOf, bySize, byTime, csvOf, markdownOf, missingBaselines, modelsOf, qualitiesOf, type Quality, scatterOf, type Table, tablesOf } from './facts.ts';
import { barsPicture, scatterPicture, stacked } from './pictures.ts';

export class ReportView {
  readonly #asker: Asker;
  readonly #save: (quality: string) => void;
  readonly #title = h('h1', {});
  readonly #lead = h('p', { class: 'lead' });
  readonly #notes = h('ul', { class: 'notes', 'aria-label': t('Notes') });
  readonly #remarks = h('ul', {});
  readonly #known = h('section', { class: 'remarks', 'aria-labelledby': 'remarks', hidden: '' }, h('h2', { id: 'remarks' }, t('What to know')), this.#remarks);
  readonly #strip: RunStrip;
  readonly #cancel: HTMLElement;
  readonly #toolbar: HTMLElement;
  readonly #tables = h('div', {});
  readonly #quality;
  readonly #missing = h('p', { class: 'note' });
  readonly #scatter = h('div', { class: 'charts' });
  readonly #exchange: HTMLElement;
  readonly #samples = h('section', { 'aria-labelledby': 'samples', hidden: '' });
  readonly #waiting = busy(t('Waiting for the first figures'));
  readonly element: HTMLElement;
  #shown: HostBenchmark | undefined;
  #chosen: string | undefined;

  /** @param chosen the quality that was on the charts when the view was last seen. */
  constructor(chosen: string | undefined, host: { readonly request: Request; readonly save: (quality: string) => void }) {
    this.#asker = new Asker(host.request);
    this.#save = host.save;
    this.#chosen = chosen;
    this.#cancel = button(t('Cancel'), () => this.#asker.ask('cancelRun'));
    this.#strip = new RunStrip(t('Benchmark run'), button(t('Show Run'), () => this.#asker.ask('showRun')), this.#cancel);
    const exporting = button(t('Export'), () => {
      const { left, bottom } = exporting.getBoundingClientRect();
      showMenu(t('Export'), this.#exports(), { x: left, y: bottom + 2 }, exporting);
    });
    exporting.setAttribute('aria-haspopup', 'menu');
    this.#toolbar = h('div', { class: 'buttons', role: 'toolbar', 'aria-label': t('Report') }, button(t('Add Models or Tasks…'), () => this.#asker.ask('benchmarkModels'), 'primary'), exporting);
    this.#quality = choice(t('Quality'), id => {
      this.#chosen = id;
      this.#save(id);
      this.#draw();
    });
    this.#exchange = h('section', { 'aria-labelledby': 'exchange', hidden: '' }, h('h2', { id: 'exchange' }, t('Quality against size and speed')), this.#quality.element, this.#missing, this.#scatter);
    const body = h('div', { class: 'body' }, this.#known, this.#tables, this.#exchange, this.#samples);
    this.element = h('main', {}, this.#title, this.#lead, this.#toolbar, this.#asker.problem, this.#strip.element, this.#notes, this.#waiting, body);
    this.#notes.hidden = true;
    onThemeChange(() => this.#draw());
  }

  take(message: Exclude<HostMessage, { type: 'reply' }>): void {
    if (message.type === 'benchmark') {
      this.#shown = message;
      this.#draw();
    } else if (message.type === 'profileRun') {
      const active = message.status !== null && isActive(message.status.state);
      this.#cancel.hidden = message.status?.state === 'cancelling';
      this.#strip.show(active ? message.status : null);
    }
  }

  #draw(): void {
    if (!this.#shown) {
      return;
    }
    const { name, benchmark, notes = [] } = this.#shown;
    const theme = readTheme();
    const { remarks = [], machine = '', device, harness } = benchmark;
    const count = modelsOf(benchmark).length;
    this.#waiting.hidden = true;
    this.#title.textContent = t('Benchmark {0}', name);
    this.#lead.textContent = [count === 1 ? t('1 model') : t('{0} models', count), [machine, device].filter(Boolean).join(', '), ...(harness ? [t('LM Evaluation Harness {0}', harness)] : [])].join(' · ');
    this.#notes.replaceChildren(...notes.map(note => h('li', {}, note)));
    this.#notes.hidden = notes.length === 0;
    this.#remarks.replaceChildren(...remarks.map(remark => h('li', {}, remark)));
    this.#known.hidden = remarks.length === 0;
    const focused = document.activeElement instanceof HTMLElement ? document.activeElement.dataset.key : undefined;
    this.#tables.replaceChildren(...tablesOf(benchmark).flatMap(table => [tableSection(table, model => this.#open(model)), ...(table.id === 'speed' ? [timeCharts(benchmark, theme)] : [])]));
    if (focused !== undefined) {
      this.#tables.querySelector<HTMLElement>(`[data-key="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
    }
    this.#drawExchange(benchmark, theme);
    this.#drawSamples(benchmark);
  }

  #drawExchange(benchmark: Benchmark, theme: Theme): void {
    const qualities = qualitiesOf(benchmark);
    const quality = this.#qualityOf(qualities);
    this.#exchange.hidden = !quality || modelsOf(benchmark).length < 2;
    if (!quality) {
      return;
    }
    this.#quality.show(qualities.map(({ id, name }) => ({ id, name })), quality.id);
    this.#missing.textContent = [t('▬ original, ■ int8 or nf4 of the original, ● compressed. Dashed: the front, of models that no other beats in both.'), missingBaselines(benchmark)].filter(Boolean).join(' ');
    this.#scatter.replaceChildren(...scatters(benchmark, quality, theme).map(({ scene, label }) => h('figure', {}, drawing(scene, label))));
  }

  #drawSamples(benchmark: Benchmark): void {
    const prompts = [...new Set(modelsOf(benchmark).flatMap(({ samples = [] }) => samples.map(({ prompt }) => prompt)))];
    this.#samples.hidden = prompts.length === 0;
    this.#samples.replaceChildren(
      h('h2', { id: 'samples' }, t('What they write')),
      ...prompts.map(prompt =>
        h(
          'dl',
          {},
          ...modelsOf(benchmark).flatMap(({ name, samples = [] }) => {
            const found = samples.find(sample => sample.prompt === prompt);
            return found ? [h('dt', {}, name), h('dd', {}, h('span', { class: 'prompt' }, prompt), found.text)] : [];
          }),
        ),
      ),
    );
  }

  #open(name: string): void {
    const model = modelsOf(this.#shown?.benchmark ?? { engine: '', created: '', device: '' }).find(each => each.name === name);
    if (model) {
      this.#asker.ask('openFolder', model.path);
    }
  }

  #qualityOf(qualities: readonly Quality[]): Quality | undefined {
    return qualities.find(({ id }) => id === this.#chosen) ?? qualities[0];
  }

  #exports() {
    const shown = this.#shown;
    if (!shown) {
      return [{ label: t('Nothing to export yet'), act: () => undefined }];
    }
    const { name, benchmark } = shown;
    const save = (ending: string, text: () => string) => () => this.#asker.ask('saveFile', text(), { name: `${name}.${ending}` });
    const picture = () => pictureOf(benchmark, this.#qualityOf(qualitiesOf(benchmark)));
    return [
      { label: t('Markdown…'), act: save('md', () => markdownOf(name, benchmark)) },
      { label: t('Copy Markdown'), act: () => this.#asker.ask('copyText', markdownOf(name, benchmark)) },
      { label: t('CSV…'), act: save('csv', () => csvOf(benchmark)) },
      { label: t('Charts as SVG…'), act: save('svg', () => svgOf(picture())), first: true },
      { label: t('Charts as PNG…'), act: save('png', () => pngOf(picture())) },
    ];
  }
}

function tableSection({ id, title, note, head, rows }: Table, open: (model: string) => void): HTMLElement {
  const [first = '', ...names] = head;
  const nameCell = (name: string) => {
    const control = h('button', { type: 'button', 'data-key': `${id} ${name}`, title: t('Open its folder') }, name);
    control.addEventListener('click', () => open(name));
    return control;
  };
  const body = rows.map(row =>
    h(
      'tr',
      { class: row.isLevel ? 'level' : undefined },
      h('th', { scope: 'row' }, row.isLevel ? row.name : nameCell(row.name)),
      ...row.cells.map(cell => h('td', { title: cell.hint, class: cell.noise ? 'noise' : undefined }, cell.text)),
    ),
  );
  return h(
    'section',
    { 'aria-labelledby': id },
    h('h2', { id }, title),
    h('p', { class: 'note' }, note),
    h(
      'div',
      { class: 'scroll', tabindex: '0', role: 'group', 'aria-label': title },
      h('table', {}, h('thead', {}, h('tr', {}, h('th', { scope: 'col' }, first), ...names.map(name => h('th', { scope: 'col' }, name)))), h('tbody', {}, ...body)),
    ),
  );
}

const CHARTS = [
  ['forward', t('Inference: forward pass')],
  ['decode', t('Inference: a token')],
  ['training', t('Training step')],
] as const;

function timeScenes(benchmark: Benchmark, theme: Theme): readonly { readonly scene: Scene; readonly label: string }[] {
  return CHARTS.flatMap(([what, title]) => {
    const bars = barsOf(benchmark, what);
    const told = bars.map(({ name, ratio }) => `${name} ${ratio.toFixed(2)}`).join(', ');
    return bars.length > 1 ? [{ scene: barsPicture(title, bars, theme), label: t('{0}, of the original’s time: {1}', title, told) }] : [];
  });
}

function timeCharts(benchmark: Benchmark, theme: Theme): HTMLElement {
  return h('div', { class: 'charts' }, ...timeScenes(benchmark, theme).map(({ scene, label }) => h('figure', {}, drawing(scene, label))));
}

function scatters(benchmark: Benchmark, quality: Quality, theme: Theme): readonly { readonly scene: Scene; readonly label: string }[] {
  const { name, higherIsBetter } = quality;
  return (
    [
      [t('against size'), t('Size on disk'), bySize, formatBytes],
      [t('against speed'), t('Time of a forward pass, of the original’s'), byTime, (value: number) => value.toFixed(2)],
    ] as const
  ).flatMap(([title, x, at, formatX]) => {
    const points = scatterOf(benchmark, quality, at);
    const told = points.map(point => `${point.name} ${formatX(point.x)}, ${point.y.toPrecision(3)}${point.onFront ? ` ${t('on the front')}` : ''}`).join('; ');
    return points.length > 1 ? [{ scene: scatterPicture({ title: `${name} ${title}`, x, y: name, formatX, higherIsBetter }, points, theme), label: `${name} ${title}: ${told}` }] : [];
  });
}

function pictureOf(benchmark: Benchmark, quality: Quality | undefined): Scene {
  const theme = readTheme();
  return stacked([...timeScenes(benchmark, theme), ...(quality ? scatters(benchmark, quality, theme) : [])].map(({ scene }) => scene), theme);
}
