/** What is shown: metric, size, heatmap or table, the plan's shares; and what can be done with all of it. */
import { h } from '../ui/dom.ts';
import { check, choice, stops, switcher } from '../ui/controls.ts';
import { t } from '../ui/l10n.ts';
import { showMenu, type MenuItem } from '../ui/menu.ts';
import { button } from '../ui/toolkit.ts';
import type { Axis } from './figures.ts';
import { type Shown, sizeText } from './facts.ts';
import type { Metric } from './metrics.ts';

export interface ToolbarActions {
  readonly metric: (id: string) => void;
  readonly axis: (axis: Axis) => void;
  readonly size: (size: number) => void;
  readonly table: (on: boolean) => void;
  readonly overlay: (on: boolean) => void;
  readonly plan: () => void;
  readonly exports: readonly MenuItem[];
}

export class Toolbar {
  readonly element: HTMLElement;
  readonly #metric;
  readonly #axis;
  readonly #size;
  readonly #view;
  readonly #overlay;
  #unit: Axis = 'keep';

  constructor(actions: ToolbarActions) {
    this.#metric = choice(t('Metric'), actions.metric);
    this.#axis = switcher<Axis>(
      t('Size by'),
      [
        { id: 'keep', name: t('Kept'), hint: t('Sizes by the part of a layer’s parameters that is kept') },
        { id: 'chi', name: 'χ', hint: t('Sizes by bond dimension') },
      ],
      actions.axis,
    );
    this.#size = stops(t('Size'), size => sizeText(this.#unit, size), actions.size);
    this.#view = switcher<'map' | 'table'>(
      t('View'),
      [
        { id: 'map', name: t('Heatmap'), hint: t('Blocks by layers, coloured') },
        { id: 'table', name: t('Table'), hint: t('The same numbers as a table') },
      ],
      id => actions.table(id === 'table'),
    );
    this.#overlay = check(actions.overlay);
    const exporting = button(t('Export'), () => {
      const { left, bottom } = exporting.getBoundingClientRect();
      showMenu(t('Export'), actions.exports, { x: left, y: bottom + 2 }, exporting);
    });
    exporting.setAttribute('aria-haspopup', 'menu');
    this.element = h(
      'div',
      { class: 'toolbar', role: 'toolbar', 'aria-label': t('What is shown') },
      this.#metric.element,
      h('div', { class: 'field' }, h('span', { 'aria-hidden': 'true' }, t('Size')), this.#axis.element, this.#size.element),
      this.#view.element,
      this.#overlay.element,
      h('div', { class: 'buttons' }, button(t('Plan Compression…'), actions.plan, 'primary'), exporting),
    );
  }

  show({ metric, axis, size }: Shown, metrics: readonly Metric[], sizes: readonly number[], table: boolean, plan: string | undefined, overlay: boolean): void {
    const all = metrics.includes(metric) ? metrics : [metric, ...metrics];
    this.#unit = axis;
    this.#metric.show(
      all.map(({ id, name, hint, curve }) => ({ id, name, hint, group: curve ? t('Predicted') : t('Measured') })),
      metric.id,
    );
    this.#axis.show(axis);
    this.#size.show(sizes, size);
    this.#view.show(table ? 'table' : 'map');
    this.#overlay.element.hidden = plan === undefined;
    this.#overlay.show(t('Plan {0}', plan ?? ''), t('Write the part that this plan keeps into each cell'), overlay);
  }
}
