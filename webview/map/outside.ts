/** What is outside the layers, at the same scale: as wide as its parameters, and as high where a row is too short for them. */
import type { MapOutside } from '../../extension/protocol/types.ts';
import { formatBytes, formatParameters } from '../../extension/runs/format.ts';
import { h } from '../ui/dom.ts';
import { type Geometry, widthOf } from '../ui/geometry.ts';
import { t } from '../ui/l10n.ts';

/** Pixels in which the name of a bar has room. */
const NAMED = 190;

export class OutsideBars {
  readonly element: HTMLElement;
  #shown = '';

  constructor(label: string) {
    this.element = h('div', { class: 'outside', role: 'list', 'aria-label': label });
  }

  show(all: readonly MapOutside[], geometry: Geometry, pixels: number): void {
    const [row, most] = [geometry.rowHeight, widthOf(geometry)];
    const key = JSON.stringify([all, row, most, pixels]);
    if (key === this.#shown) {
      return;
    }
    this.#shown = key;
    this.element.hidden = all.length === 0;
    this.element.replaceChildren(...all.map(part => bar(part, row, most, part.parameters * pixels)));
  }
}

function bar(part: MapOutside, row: number, most: number, wide: number): HTMLElement {
  const text = t('{0}: {1}', outsideName(part.name), formatParameters(part.parameters));
  const hint = t('{0}: {1} parameters in {2} tensors, {3}', outsideName(part.name), formatParameters(part.parameters), part.tensors, formatBytes(part.bytes));
  const width = Math.max(2, Math.min(most, wide));
  const box = h('div', { class: 'slab' }, width >= NAMED ? h('span', {}, text) : undefined);
  box.style.width = `${width}px`;
  box.style.height = `${row * Math.max(1, wide / Math.max(1, most)) - 2}px`;
  return h('div', { class: 'part', role: 'listitem', title: hint, 'aria-label': hint }, box, width >= NAMED ? undefined : h('span', { class: 'note' }, text));
}

function outsideName(name: MapOutside['name']): string {
  return { embedding: t('Embedding'), norm: t('Final norm'), head: t('Head'), other: t('Other tensors'), blocks: t('Norms of the blocks') }[name];
}
