/** A continuous colour scale with its marks. */
import { h } from './dom.ts';
import { colourAt, css } from './scale.ts';

/** @param marks from the low end to the high one; positions from 0 to 1. */
export function ramp(dark: boolean, marks: readonly { readonly position: number; readonly text: string }[]): HTMLElement {
  const written = marks.map(({ position, text }, index) => {
    const mark = h('span', { class: index === 0 ? 'first' : index === marks.length - 1 ? 'last' : undefined }, text);
    mark.style.left = `${position * 100}%`;
    return mark;
  });
  return h('div', { class: 'ramp' }, colours(dark), h('div', { class: 'marks' }, ...written));
}

function colours(dark: boolean): HTMLCanvasElement {
  const canvas = document.createElement('canvas');
  canvas.width = 256;
  canvas.height = 1;
  const context = canvas.getContext('2d');
  for (let x = 0; context && x < canvas.width; x++) {
    context.fillStyle = css(colourAt(x / (canvas.width - 1), dark));
    context.fillRect(x, 0, 1, 1);
  }
  return canvas;
}
