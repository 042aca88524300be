/** The labels of a sheet: each selects the row or the column that it names. */
import { h } from './dom.ts';
import type { Geometry } from './geometry.ts';
import { t } from './l10n.ts';
import { type Grid, GROUP_NAMES, type Spot } from './grid.ts';

/** Pixels in which no label can be read. */
const NARROW = 22;
/** Pixels that a number needs; of lower rows only some have theirs. */
const LOW = 13;

type Choose = (spot: Spot, event: MouseEvent) => void;

/** Above the row labels: all layers. */
export function cornerLabel(sheet: string): HTMLElement {
  return h('div', { class: 'corner', role: 'columnheader', id: `${sheet}-head--1`, 'aria-label': t('All layers'), title: t('Select all layers') }, t('Block'));
}

export function columnLabels(sheet: string, grid: Grid, { edges }: Geometry, choose: Choose): readonly HTMLElement[] {
  const span = (from: number, to: number) => (edges[to] ?? 0) - (edges[from] ?? 0);
  const heads = grid.columns.map((column, index) => {
    const width = span(index, index + 1);
    const head = h(
      'div',
      { role: 'columnheader', id: `${sheet}-head-${index}`, 'aria-colindex': String(index + 2), 'aria-label': column.id, title: t('{0}: select the column', column.id) },
      width < NARROW ? h('span', { class: 'unseen' }, column.label) : column.label,
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
    element.style.width = `${span(start, end)}px`;
    groups.append(element);
    start = end;
  }
  return [groups, h('div', { role: 'row', 'aria-rowindex': '1' }, ...heads)];
}

export function rowLabels(sheet: string, grid: Grid, height: number, choose: Choose): readonly HTMLElement[] {
  const every = Math.ceil(LOW / height);
  return grid.blocks.map((block, index) => {
    const number = index % every === 0 ? String(block) : h('span', { class: 'unseen' }, String(block));
    const head = h('div', { role: 'rowheader', id: `${sheet}-block-${index}`, 'aria-label': t('Block {0}', block), title: t('Block {0}: select the row', block) }, number);
    head.style.lineHeight = `${Math.min(height, 18)}px`;
    head.style.overflow = every > 1 ? 'visible' : '';
    head.style.fontSize = every > 1 ? '10px' : '';
    head.addEventListener('click', event => choose({ row: index, column: -1 }, event));
    const row = h('div', { role: 'row', 'aria-rowindex': String(index + 2) }, head);
    row.style.height = `${height}px`;
    return row;
  });
}
