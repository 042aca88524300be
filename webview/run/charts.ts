/** The charts of a healing. */
import { formatCount } from '../../extension/runs/format.ts';
import type { RunView } from '../../extension/protocol/types.ts';
import type { History } from '../../extension/runs/healFold.ts';
import { LinePlot } from '../ui/chart.ts';
import { h } from '../ui/dom.ts';
import { t } from '../ui/l10n.ts';
import type { PlotLine } from '../ui/plot.ts';
import type { Theme } from '../ui/theme.ts';
import { curvesOf } from './curves.ts';

export class HealCharts {
  readonly #plots = new Map<string, { readonly plot: LinePlot; readonly element: HTMLElement }>();
  readonly #main = h('div', {});
  readonly #small = h('div', { class: 'small' });
  readonly element = h('div', { class: 'charts' }, this.#main, this.#small);
  readonly #keys = h('ul', { class: 'keys', 'aria-label': t('Lines') });
  #coloured = '';
  readonly #pick: (step: number) => void;

  /** @param pick called with the step of a validation that was clicked. */
  constructor(pick: (step: number) => void) {
    this.#pick = pick;
  }

  show(run: RunView, history: History, theme: Theme): void {
    const last = Math.max(history.plan?.plan.steps ?? 0, history.steps.at(-1)?.step ?? 0, 1);
    const validations = history.validations.map(({ step }) => step);
    for (const [index, { id, title, plot }] of curvesOf(run, history, theme).entries()) {
      const chart = this.#plots.get(id) ?? this.#add(id, title, index === 0);
      if (index === 0) {
        this.#colourKeys(plot.lines);
      }
      const pick = (line: number, point: number) => {
        const step = plot.lines[line]?.kind === 'measured' ? validations[point] : undefined;
        if (step !== undefined) {
          this.#pick(step);
        }
      };
      const label = t('{0} over {1} steps. The table has the numbers.', title, formatCount(last));
      chart.plot.show({ ...plot, label, x: { title: t('Step'), bare: index > 0, scale: 'linear', min: 0, max: last, format: value => formatCount(value) }, ...(index === 0 ? { onPick: pick } : {}) }, theme);
    }
  }

  /** What the lines are; their colours are another theme's now and then. */
  #colourKeys(lines: readonly PlotLine[]): void {
    const colours = lines.map(({ colour }) => colour).join();
    if (colours !== this.#coloured) {
      this.#coloured = colours;
      this.#keys.replaceChildren(...keysOf(lines));
    }
  }

  #add(id: string, title: string, isMain: boolean): { readonly plot: LinePlot; readonly element: HTMLElement } {
    const plot = new LinePlot();
    const element = h('figure', {}, h('figcaption', {}, title), isMain ? this.#keys : undefined, plot.element);
    (isMain ? this.#main : this.#small).append(element);
    const made = { plot, element };
    this.#plots.set(id, made);
    return made;
  }
}

function keysOf(lines: readonly PlotLine[]): readonly HTMLElement[] {
  const entry = (colour: string | undefined, glyph: string, text: string) => {
    const mark = h('i', { class: 'glyph', 'aria-hidden': 'true' }, glyph);
    if (colour !== undefined) {
      mark.style.color = colour;
    }
    return h('li', {}, mark, text);
  };
  return [
    ...lines.map(({ label, colour, kind }) => entry(colour, kind === 'trend' ? '━' : '●', kind === 'trend' ? t('{0}, what it trains on', label) : t('{0}, text held back (click: what it wrote)', label))),
    entry(undefined, '╌', t('the original, and the model before healing, on the text held back')),
  ];
}
