/** A scene as SVG. */
import { type Item, type Scene, stripesOf } from './scene.ts';

export function svgOf({ width, height, font, items }: Scene): string {
  const head = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" font-family="${xml(font)}">`;
  return [head, ...items.map(svgItem), '</svg>', ''].join('\n');
}

function svgItem(item: Item): string {
  switch (item.kind) {
    case 'box':
      return `<rect x="${n(item.x)}" y="${n(item.y)}" width="${n(item.width)}" height="${n(item.height)}" fill="${xml(item.fill)}"/>`;
    case 'dot':
      return `<circle cx="${n(item.x)}" cy="${n(item.y)}" r="${n(item.radius)}" fill="${xml(item.fill)}"/>`;
    case 'line': {
      const dashes = item.dashed ? ' stroke-dasharray="5 4"' : '';
      return `<polyline points="${item.points.map(([x, y]) => `${n(x)},${n(y)}`).join(' ')}" fill="none" stroke="${xml(item.stroke)}" stroke-width="${n(item.width)}"${dashes}/>`;
    }
    case 'stripes':
      return `<path d="${stripesOf(item).map(([x0, y0, x1, y1]) => `M${n(x0)} ${n(y0)}L${n(x1)} ${n(y1)}`).join('')}" stroke="${xml(item.stroke)}" stroke-opacity="0.4"/>`;
    case 'text': {
      const bold = item.bold ? ' font-weight="600"' : '';
      return `<text x="${n(item.x)}" y="${n(item.y)}" font-size="${n(item.size)}"${bold} text-anchor="${item.anchor}" fill="${xml(item.fill)}">${xml(item.text)}</text>`;
    }
  }
}

function n(value: number): string {
  return String(Math.round(value * 100) / 100);
}

/** Names come from a checkpoint: also characters that XML does not allow at all. */
function xml(text: string): string {
  return text.replace(/[\p{Cc}\uFFFE\uFFFF]/gu, ' ').replace(/[&<>"']/g, character => `&#${character.charCodeAt(0)};`);
}
