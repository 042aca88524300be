/** The elements of the compare panel. */
import type { CompareData, Evaluation, LayerFigures } from '../../extension/protocol/types.ts';
import { formatParameters, formatPercent } from '../../extension/runs/format.ts';
import { h } from '../ui/dom.ts';
import { t } from '../ui/l10n.ts';
import { button } from '../ui/toolkit.ts';
import { COLUMNS, figureRows, sortLayers, type FigureRow, type Sort } from './figures.ts';

export interface Actions {
  revealLayer(name: string): void;
  openFolder(path: string): void;
  showMap(): void;
  sort(sort: Sort): void;
}

export function compareView(data: CompareData, sort: Sort, actions: Actions): HTMLElement {
  return h('main', {}, header(data, actions), figures(data), samples(data), layers(data.layers, sort, actions));
}

function header(data: CompareData, actions: Actions): HTMLElement {
  return h(
    'header',
    {},
    h('h1', {}, data.compressed.name),
    h('p', { class: 'lead' }, t('compared with {0}, which it was made from{1}', data.original.name, data.healing ? t('; healed') : '')),
    h(
      'div',
      { class: 'buttons' },
      button(t('Show Model Map'), () => actions.showMap()),
      button(t('Show Compressed Folder'), () => actions.openFolder(data.compressed.path)),
      button(t('Show Original Folder'), () => actions.openFolder(data.original.path)),
    ),
  );
}

function figures(data: CompareData): HTMLElement {
  const { evaluation } = data.healed ?? data.compressed;
  const heads = [t('Original'), t('Compressed'), ...(data.healed ? [t('Healed')] : []), t('Change')];
  const note = evaluation
    ? t('Measured on {0} tokens of {1}, the same for all.', formatParameters(evaluation.tokens), evaluation.data === 'builtin' ? t('the built-in text') : evaluation.data)
    : t('Perplexity, speed and sample text were not measured: Tensorize… and Heal Model… measure them when their last step says so.');
  return h(
    'section',
    { 'aria-labelledby': 'figures' },
    h('h2', { id: 'figures' }, t('Figures')),
    h(
      'div',
      { class: 'scroll', tabindex: '0', role: 'group', 'aria-labelledby': 'figures' },
      h(
        'table',
        { class: 'figures' },
        h('thead', {}, h('tr', {}, h('td', {}), ...heads.map(text => h('th', { scope: 'col' }, text)))),
        h('tbody', {}, ...figureRows(data).map(figureRow)),
      ),
    ),
    h('p', { class: 'note' }, note),
  );
}

function figureRow(row: FigureRow): HTMLElement {
  const verdict = row.good === undefined ? undefined : row.good ? 'better' : 'worse';
  const spoken = row.good === undefined ? undefined : `${row.change}, ${row.good ? t('better') : t('worse')}`;
  return h(
    'tr',
    {},
    h('th', { scope: 'row', title: row.hint }, row.name),
    h('td', {}, row.original),
    h('td', {}, row.compressed),
    row.healed === undefined ? undefined : h('td', {}, row.healed),
    h('td', { class: verdict, 'aria-label': spoken }, row.change),
  );
}

function samples(data: CompareData): HTMLElement | undefined {
  const sides = ([[t('Original'), data.original], [t('Compressed'), data.compressed], [t('Healed'), data.healed]] as const).flatMap(([title, side]) => (side?.evaluation ? [sample(title, side.evaluation)] : []));
  if (sides.length < 2) {
    return undefined;
  }
  return h(
    'section',
    { 'aria-labelledby': 'samples' },
    h('h2', { id: 'samples' }, t('What they write')),
    h('div', { class: 'samples' }, ...sides),
  );
}

function sample(title: string, evaluation: Evaluation): HTMLElement {
  return h(
    'figure',
    {},
    h('figcaption', {}, title),
    h('blockquote', {}, h('span', { class: 'prompt' }, evaluation.prompt), evaluation.sample || ` ${t('(nothing)')}`),
  );
}

function layers(all: readonly LayerFigures[], sort: Sort, actions: Actions): HTMLElement {
  const count = all.length === 1 ? t('1 layer') : t('{0} layers', all.length);
  const before = all.reduce((sum, layer) => sum + layer.original_parameters, 0);
  const after = all.reduce((sum, layer) => sum + layer.parameters, 0);
  return h(
    'section',
    { 'aria-labelledby': 'layers' },
    h('h2', { id: 'layers' }, t('Tensorized layers')),
    h('p', { class: 'note' }, t('{0}, {1} → {2} parameters ({3} kept).', count, formatParameters(before), formatParameters(after), formatPercent(after / before))),
    h(
      'div',
      { class: 'scroll', tabindex: '0', role: 'group', 'aria-labelledby': 'layers' },
      h(
        'table',
        { class: 'layers' },
        h('thead', {}, h('tr', {}, ...COLUMNS.map(column => sortHeader(column, sort, actions)))),
        h('tbody', {}, ...sortLayers(all, sort).map(layer => layerRow(layer, actions))),
      ),
    ),
  );
}

function sortHeader(column: (typeof COLUMNS)[number], sort: Sort, actions: Actions): HTMLElement {
  const sorted = sort.column === column.id;
  const arrow = sorted ? (sort.descending ? ' ↓' : ' ↑') : '';
  const control = h('button', { type: 'button', 'data-sort': column.id, title: column.hint }, column.name, h('span', { 'aria-hidden': 'true' }, arrow));
  control.addEventListener('click', () => actions.sort({ column: column.id, descending: sorted && !sort.descending }));
  return h('th', { scope: 'col', 'aria-sort': sorted ? (sort.descending ? 'descending' : 'ascending') : 'none' }, control);
}

function layerRow(layer: LayerFigures, actions: Actions): HTMLElement {
  const [, ...rest] = COLUMNS;
  const link = h('button', { type: 'button', class: 'link', title: t('Show in the Models view'), 'aria-label': t('Show {0} in the Models view', layer.name) }, layer.name);
  link.addEventListener('click', () => actions.revealLayer(layer.name));
  return h('tr', {}, h('th', { scope: 'row' }, link), ...rest.map(column => h('td', {}, column.text(layer))));
}
