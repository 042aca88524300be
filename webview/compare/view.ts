/** The elements of the compare panel. */
import type { CompareData, Evaluation, LayerFigures } from '../../extension/protocol/types.ts';
import { formatParameters, formatPercent } from '../../extension/runs/format.ts';
import { h } from '../ui/dom.ts';
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
    h('p', { class: 'lead' }, `compared with ${data.original.name}, which it was made from${data.healing ? '; healed' : ''}`),
    h(
      'div',
      { class: 'buttons' },
      button('Show Model Map', () => actions.showMap()),
      button('Show Compressed Folder', () => actions.openFolder(data.compressed.path)),
      button('Show Original Folder', () => actions.openFolder(data.original.path)),
    ),
  );
}

function figures(data: CompareData): HTMLElement {
  const { evaluation } = data.healed ?? data.compressed;
  const heads = ['Original', 'Compressed', ...(data.healed ? ['Healed'] : []), 'Change'];
  const note = evaluation
    ? `Measured on ${formatParameters(evaluation.tokens)} tokens of ${evaluation.data === 'builtin' ? 'the built-in text' : evaluation.data}, the same for all.`
    : 'Perplexity, speed and sample text were not measured: Tensorize… and Heal Model… measure them when their last step says so.';
  return h(
    'section',
    { 'aria-labelledby': 'figures' },
    h('h2', { id: 'figures' }, 'Figures'),
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
  return h(
    'tr',
    {},
    h('th', { scope: 'row', title: row.hint }, row.name),
    h('td', {}, row.original),
    h('td', {}, row.compressed),
    row.healed === undefined ? undefined : h('td', {}, row.healed),
    h('td', { class: verdict, 'aria-label': verdict && `${row.change}, ${verdict}` }, row.change),
  );
}

function samples(data: CompareData): HTMLElement | undefined {
  const sides = ([['Original', data.original], ['Compressed', data.compressed], ['Healed', data.healed]] as const).flatMap(([title, side]) => (side?.evaluation ? [sample(title, side.evaluation)] : []));
  if (sides.length < 2) {
    return undefined;
  }
  return h(
    'section',
    { 'aria-labelledby': 'samples' },
    h('h2', { id: 'samples' }, 'What they write'),
    h('div', { class: 'samples' }, ...sides),
  );
}

function sample(title: string, evaluation: Evaluation): HTMLElement {
  return h(
    'figure',
    {},
    h('figcaption', {}, title),
    h('blockquote', {}, h('span', { class: 'prompt' }, evaluation.prompt), evaluation.sample || ' (nothing)'),
  );
}

function layers(all: readonly LayerFigures[], sort: Sort, actions: Actions): HTMLElement {
  const count = all.length === 1 ? '1 layer' : `${all.length} layers`;
  const before = all.reduce((sum, layer) => sum + layer.original_parameters, 0);
  const after = all.reduce((sum, layer) => sum + layer.parameters, 0);
  return h(
    'section',
    { 'aria-labelledby': 'layers' },
    h('h2', { id: 'layers' }, 'Tensorized layers'),
    h('p', { class: 'note' }, `${count}, ${formatParameters(before)} → ${formatParameters(after)} parameters (${formatPercent(after / before)} kept).`),
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
  const link = h('button', { type: 'button', class: 'link', title: 'Show in the Models view', 'aria-label': `Show ${layer.name} in the Models view` }, layer.name);
  link.addEventListener('click', () => actions.revealLayer(layer.name));
  return h('tr', {}, h('th', { scope: 'row' }, link), ...rest.map(column => h('td', {}, column.text(layer))));
}
