/** A scene as PNG, painted by the browser: no library, and no image that the Content Security Policy would refuse. */
import { t } from './l10n.ts';
import { type Item, type Scene, stripesOf } from './scene.ts';

/** Pixels of a PNG for each unit of the scene. */
const SHARPNESS = 2;
/** A browser's limit for the side of a canvas. */
const MAX_SIDE = 16_000;

/** @returns a data URL. @throws when the browser gives no canvas. */
export function pngOf({ width, height, font, items }: Scene): string {
  const canvas = document.createElement('canvas');
  const ratio = Math.min(SHARPNESS, MAX_SIDE / width, MAX_SIDE / height);
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext('2d');
  if (!context) {
    throw new Error(t('This window cannot draw a picture.'));
  }
  context.scale(ratio, ratio);
  items.forEach(item => paint(context, item, font));
  return canvas.toDataURL('image/png');
}

function paint(context: CanvasRenderingContext2D, item: Item, font: string): void {
  switch (item.kind) {
    case 'box':
      context.fillStyle = item.fill;
      context.fillRect(item.x, item.y, item.width, item.height);
      break;
    case 'dot':
      context.fillStyle = item.fill;
      context.beginPath();
      context.arc(item.x, item.y, item.radius, 0, 2 * Math.PI);
      context.fill();
      break;
    case 'line':
      context.strokeStyle = item.stroke;
      context.lineWidth = item.width;
      context.setLineDash(item.dashed ? [5, 4] : []);
      context.beginPath();
      item.points.forEach(([x, y], index) => (index === 0 ? context.moveTo(x, y) : context.lineTo(x, y)));
      context.stroke();
      context.setLineDash([]);
      break;
    case 'stripes':
      context.lineWidth = 1;
      context.strokeStyle = item.stroke;
      context.globalAlpha = 0.4;
      context.beginPath();
      for (const [x0, y0, x1, y1] of stripesOf(item)) {
        context.moveTo(x0, y0);
        context.lineTo(x1, y1);
      }
      context.stroke();
      context.globalAlpha = 1;
      break;
    case 'text':
      context.fillStyle = item.fill;
      context.font = `${item.bold ? '600 ' : ''}${item.size}px ${font}`;
      context.textAlign = ({ start: 'left', middle: 'center', end: 'right' } as const)[item.anchor];
      context.fillText(item.text, item.x, item.y);
      break;
  }
}
