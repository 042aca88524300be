/** A scene in the page, as SVG elements: text goes in as text nodes, marks tell what they are in a `title`. */
import { type Item, type Scene, stripesOf } from './scene.ts';

const SVG = 'http://www.w3.org/2000/svg';

/** @param label what the picture says, for who does not see it. */
export function drawing({ width, height, font, items }: Scene, label: string): SVGElement {
  return make('svg', { viewBox: `0 0 ${width} ${height}`, width, height, role: 'img', 'aria-label': label, 'font-family': font }, items.map(drawn));
}

function drawn(item: Item): SVGElement {
  switch (item.kind) {
    case 'box':
      return make('rect', { x: item.x, y: item.y, width: item.width, height: item.height, fill: item.fill }, told(item.hint));
    case 'dot':
      return make('circle', { cx: item.x, cy: item.y, r: item.radius, fill: item.fill }, told(item.hint));
    case 'line':
      return make('polyline', {
        points: item.points.map(point => point.join(',')).join(' '),
        fill: 'none',
        stroke: item.stroke,
        'stroke-width': item.width,
        ...(item.dashed ? { 'stroke-dasharray': '5 4' } : {}),
      });
    case 'stripes':
      return make('path', { d: stripesOf(item).map(([x0, y0, x1, y1]) => `M${x0} ${y0}L${x1} ${y1}`).join(''), stroke: item.stroke, 'stroke-opacity': 0.4 });
    case 'text':
      return make('text', { x: item.x, y: item.y, 'font-size': item.size, 'font-weight': item.bold ? 600 : 400, 'text-anchor': item.anchor, fill: item.fill }, [item.text]);
  }
}

function told(hint: string | undefined): readonly SVGElement[] {
  return hint === undefined ? [] : [make('title', {}, [hint])];
}

function make(tag: string, attributes: Readonly<Record<string, string | number>>, children: readonly (SVGElement | string)[] = []): SVGElement {
  const element = document.createElementNS(SVG, tag);
  Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, String(value)));
  element.append(...children);
  return element;
}
