/** The labels of the heatmap: each selects the row or the column that it names. */
import { h } from '../ui/dom.ts';
import { t } from '../ui/l10n.ts';
import { type Grid, GROUP_NAMES, type Spot } from './grid.ts';

type Choose = (spot: Spot, event: MouseEvent) => void;

/** Above the row labels: all layers. */
export function cornerLabel(): HTMLElement {
  return h('div', { class: 'corner', role: 'columnheader', id: 'head--1', 'aria-label': t('All layers'), title: t('Select all layers') }, t('Block'));
}

export function columnLabels(grid: Grid, width: number, choose: Choose): readonly HTMLElement[] {
  const heads = grid.columns.map((column, index) => {
    const head = h(
      'div',
      { role: 'columnheader', id: `head-${index}`, 'aria-colindex': String(index + 2), 'aria-label': column.id, title: t('{0}: select the column', column.id) },
      column.label,
    );
    head.style.width = `${width}px`;
    head.addEventListener('click', event => choose({ row: -1, column: index }, event));
    return head;
  });
  const groups = h('div', { class: 'groups', 'aria-hidden': 'true' });
  for (let start = 0; start < grid.columns.length; ) {
    const group = grid.columns[start]?.group ?? 'other';
    const next = grid.columns.findIndex((column, index) => index > start && column.group !== group);
    const end = next < 0 ? grid.columns.length : next;
    const element = h('div', {}, h('span', {}, GROUP_NAMES[group]));
    element.style.width = `${(end - start) * width}px`;
    groups.append(element);
    start = end;
  }
  return [groups, h('div', { role: 'row', 'aria-rowindex': '1', 'aria-owns': 'head--1' }, ...heads)];
}

export function rowLabels(grid: Grid, height: number, choose: Choose): readonly HTMLElement[] {
  return grid.blocks.map((block, index) => {
    const head = h('div', { role: 'rowheader', id: `block-${index}`, 'aria-label': t('Block {0}', block), title: t('Block {0}: select the row', block) }, String(block));
    head.addEventListener('click', event => choose({ row: index, column: -1 }, event));
    const row = h('div', { role: 'row', 'aria-rowindex': String(index + 2) }, head);
    row.style.height = `${height}px`;
    return row;
  });
}
