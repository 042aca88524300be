/** What is known of the chosen tensor: statistics, histogram, singular values with the bond dimensions that sizes mean. */
import type { TensorFacts, TensorInfo, TensorSpectrum } from '../../extension/protocol/types.ts';
import { formatNumber, formatParameters, formatPercent } from '../../extension/runs/format.ts';
import { LinePlot } from '../ui/chart.ts';
import { h } from '../ui/dom.ts';
import { shapeText } from '../ui/listRows.ts';
import { t } from '../ui/l10n.ts';
import { readTheme } from '../ui/theme.ts';
import { busy, button } from '../ui/toolkit.ts';
import { bars, figuresOf, readable } from './figures.ts';

/** What has come of a tensor so far; undefined while it is awaited, null where it is not asked for yet. */
export interface Known {
  readonly facts: TensorFacts | undefined;
  readonly spectrum: TensorSpectrum | undefined | null;
  readonly problem: string | undefined;
  readonly spectrumProblem: string | undefined;
}

export class Details {
  readonly element = h('section', { class: 'details', tabindex: '0', 'aria-label': t('Chosen tensor') });
  readonly #plot = new LinePlot();
  readonly #askSpectrum: () => void;

  constructor(askSpectrum: () => void) {
    this.#askSpectrum = askSpectrum;
  }

  /** @param tensor undefined where none is chosen. */
  show(tensor: TensorInfo | undefined, known: Known | undefined): void {
    if (!tensor) {
      this.element.replaceChildren(h('p', { class: 'note' }, t('Choose a tensor to see its values: statistics, histogram and singular values.')));
      return;
    }
    this.element.replaceChildren(
      h('h2', {}, tensor.name),
      h('p', { class: 'note' }, `${shapeText(tensor.shape)} ${tensor.dtype}`),
      ...(known?.problem !== undefined ? [h('p', { role: 'alert', class: 'problem' }, known.problem)] : known?.facts ? this.#statistics(known.facts) : [busy(t('Reading its values…'))]),
      ...(known?.facts && tensor.shape.length > 1 ? this.#singular(known) : []),
    );
    if (known?.spectrum) {
      this.#draw(known.spectrum);
    }
  }

  #statistics(facts: TensorFacts): readonly HTMLElement[] {
    const figures = figuresOf(facts).map(({ name, value, bad }) => h('div', { class: bad ? 'bad' : undefined }, h('dt', {}, name), h('dd', {}, value)));
    return [h('dl', { class: 'figures' }, ...figures), this.#histogram(facts)];
  }

  #histogram(facts: TensorFacts): HTMLElement {
    const drawn = bars(facts).map(({ height, text }) => {
      const bar = h('div', { title: text });
      bar.style.height = `${height}%`;
      return h('div', { class: 'bin' }, bar);
    });
    const label = t('Histogram of {0}: values from {1} to {2}.', facts.name, readable(facts.low), readable(facts.high));
    return h(
      'figure',
      {},
      h('figcaption', {}, `${t('Histogram')} `, h('span', { class: 'note' }, t('61 equal bins, logarithmic'))),
      h('div', { class: 'bars', role: 'img', 'aria-label': label }, ...drawn),
      h('div', { class: 'ends' }, h('span', {}, readable(facts.low)), h('span', {}, readable(facts.high))),
    );
  }

  #singular({ spectrum, spectrumProblem }: Known): readonly HTMLElement[] {
    if (spectrumProblem !== undefined) {
      return [h('h3', {}, t('Singular values')), h('p', { class: 'note' }, spectrumProblem)];
    }
    if (spectrum === null) {
      return [h('h3', {}, t('Singular values')), h('p', { class: 'note' }, t('This is a large matrix: decomposing it takes a while.')), button(t('Compute'), this.#askSpectrum)];
    }
    if (!spectrum) {
      return [h('h3', {}, t('Singular values')), busy(t('Decomposing…'))];
    }
    const rows = spectrum.marks.map(({ keep, chi, parameters, relative_error }) =>
      h('tr', {}, ...[formatPercent(keep), String(chi), formatParameters(parameters), formatNumber(relative_error)].map((text, at) => h(at === 0 ? 'th' : 'td', at === 0 ? { scope: 'row' } : {}, text))),
    );
    return [
      h('h3', {}, `${t('Singular values')} `, h('span', { class: 'note' }, t('of the {0} × {1} matrix', spectrum.rows, spectrum.columns))),
      this.#plot.element,
      h('p', { class: 'note' }, t('What plain low rank would keep of it. Data-aware methods weigh the error by what the layer sees: profile the model for those.')),
      h(
        'table',
        {},
        h('thead', {}, h('tr', {}, ...[t('Kept'), 'χ', t('Parameters'), t('Relative error')].map(text => h('th', { scope: 'col' }, text)))),
        h('tbody', {}, ...rows),
      ),
    ];
  }

  #draw(spectrum: TensorSpectrum): void {
    const theme = readTheme();
    const largest = spectrum.values[0] ?? 0;
    const colour = getComputedStyle(document.body).getPropertyValue('--vscode-charts-blue').trim() || theme.focus;
    const line = spectrum.values.map((value, index) => ({ x: index + 1, y: value, text: readable(value) })).filter(({ y }) => y > largest * 1e-8);
    const marks = spectrum.marks.flatMap(({ keep, chi }) => {
      const value = spectrum.values[chi - 1];
      return value !== undefined && value > largest * 1e-8 ? [{ x: chi, y: value, text: t('χ {0} keeps {1} of the parameters', chi, formatPercent(keep)) }] : [];
    });
    this.#plot.show(
      {
        label: t('Singular values of {0}, from {1} to {2}.', spectrum.name, readable(largest), readable(spectrum.values.at(-1) ?? 0)),
        x: { title: t('Rank'), scale: 'linear', min: 1, max: spectrum.values.length, format: value => String(Math.round(value)) },
        y: { title: t('Singular value'), scale: 'log', format: readable },
        lines: [
          { label: 'σ', colour, shape: undefined, kind: 'trend', points: line },
          { label: t('Size'), colour: theme.foreground, shape: 'rectRot', kind: 'point', points: marks },
        ],
      },
      theme,
    );
  }
}
