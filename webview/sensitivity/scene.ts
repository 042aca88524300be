/** The heatmap as a picture to keep: shapes and texts with their places, from which both the SVG and the PNG are made. */
import { formatShare } from '../../extension/views/measured.ts';
import { GAP } from '../ui/geometry.ts';
import { t } from '../ui/l10n.ts';
import { DOT, look } from './cells.ts';
import { type Shown, sizeText } from './facts.ts';
import type { Figures, Value } from './figures.ts';
import { type Grid, GROUP_NAMES } from '../ui/grid.ts';
import { baselineText, type Mark, marks, titleOf } from './marks.ts';
import { colourAt, css, type Scale } from '../ui/scale.ts';
import { CHARACTER, type Item, type Scene, type TextLook } from '../ui/scene.ts';

interface Cells {
  readonly grid: Grid;
  /** Row by row; undefined where nothing is known. */
  readonly values: readonly (Value | undefined)[];
  /** Part kept of each layer, to be written in its cell. */
  readonly overlay: Readonly<Record<string, number>> | undefined;
  readonly theme: { readonly dark: boolean; readonly background: string; readonly foreground: string; readonly muted: string };
}

export interface PictureInput extends Cells {
  readonly figures: Figures;
  readonly shown: Shown;
}

interface SceneInput extends Cells {
  readonly title: string;
  readonly subtitle: string;
  readonly scale: Scale;
  readonly legend: { readonly title: string; readonly baseline: string | undefined; readonly marks: readonly Mark[] };
}

const CELL = { width: 64, height: 18 };
const MARGIN = 20;
const LABELS = 44;
const TOP = 92;
const RAMP = { width: 320, height: 12, step: 2 };

/** The heatmap as it is shown, with its title and its legend. */
export function pictureOf({ figures, grid, shown, values, overlay, theme }: PictureInput): Scene {
  const { metric, axis, size } = shown;
  const [scale, baseline] = [figures.scale(metric), figures.baseline(metric)];
  return sceneOf({
    title: t('Sensitivity of {0}', figures.profile.model.name),
    subtitle: t('{0}, {1} of each layer, one layer at a time', metric.name, sizeText(axis, size)),
    grid,
    values,
    scale,
    legend: {
      title: titleOf(metric),
      baseline: baseline === undefined ? undefined : baselineText(metric, baseline),
      marks: baseline === undefined ? [] : marks(metric, scale, baseline),
    },
    overlay,
    theme,
  });
}

function sceneOf({ title, subtitle, grid, values, scale, legend, overlay, theme }: SceneInput): Scene {
  const items: Item[] = [];
  const text = (x: number, y: number, content: string, options: Partial<TextLook> = {}) =>
    items.push({ kind: 'text', x, y, text: content, size: 11, bold: false, fill: theme.foreground, anchor: 'start', ...options });
  const left = MARGIN + LABELS;
  const bottom = TOP + grid.blocks.length * CELL.height;
  const legendAt = bottom + 28;
  const noise = values.some(value => value?.noise);
  const missing = [...grid.spots()].some((spot, index) => grid.at(spot) && !values[index]);
  const keys = [noise && t('● within 2 standard errors of the original'), missing && t('striped: no figure yet'), overlay && t('60%: kept by the plan')];

  text(MARGIN, MARGIN + 12, title, { size: 15, bold: true });
  text(MARGIN, MARGIN + 30, subtitle, { fill: theme.muted });
  grid.columns.forEach(({ label, group }, column) => {
    const x = left + column * CELL.width;
    if (grid.columns[column - 1]?.group !== group) {
      text(x, TOP - 24, GROUP_NAMES[group], { fill: theme.muted });
    }
    text(x + CELL.width / 2, TOP - 7, label, { anchor: 'middle' });
  });
  grid.blocks.forEach((block, row) => text(left - 8, TOP + (row + 0.72) * CELL.height, String(block), { anchor: 'end' }));
  let index = 0;
  for (const spot of grid.spots()) {
    const value = values[index++];
    const layer = grid.at(spot);
    if (!layer) {
      continue;
    }
    const box = { x: left + spot.column * CELL.width, y: TOP + spot.row * CELL.height, width: CELL.width - GAP, height: CELL.height - GAP };
    const { fill, ink } = value ? look(value, scale, theme.dark) : { fill: theme.background, ink: theme.foreground };
    items.push(value ? { kind: 'box', ...box, fill } : { kind: 'stripes', ...box, stroke: theme.muted });
    const keep = overlay?.[layer.name];
    if (keep !== undefined) {
      text(box.x + box.width / 2, box.y + 12.5, formatShare(keep), { anchor: 'middle', bold: true, fill: ink });
    }
    if (value?.noise) {
      items.push({ kind: 'dot', x: keep === undefined ? box.x + box.width / 2 : box.x + box.width - 3 * DOT, y: box.y + box.height / 2, radius: DOT, fill: ink });
    }
  }
  text(MARGIN, legendAt, legend.title, { bold: true });
  if (legend.baseline !== undefined) {
    const baselineWidth = legend.baseline.length * 11 * CHARACTER;
    items.push({ kind: 'box', x: MARGIN, y: legendAt + 10, width: RAMP.height, height: RAMP.height, fill: css(colourAt(0, theme.dark)) });
    text(MARGIN + RAMP.height + 6, legendAt + 20, legend.baseline);
    const start = MARGIN + RAMP.height + baselineWidth + 30;
    for (let x = 0; x < RAMP.width; x += RAMP.step) {
      items.push({ kind: 'box', x: start + x, y: legendAt + 10, width: RAMP.step + 0.5, height: RAMP.height, fill: css(colourAt(x / (RAMP.width - RAMP.step), theme.dark)) });
    }
    legend.marks.forEach(mark => {
      items.push({ kind: 'box', x: start + mark.position * RAMP.width - 0.5, y: legendAt + 10 + RAMP.height, width: 1, height: 4, fill: theme.muted });
      text(start + mark.position * RAMP.width, legendAt + 10 + RAMP.height + 15, mark.text, { anchor: 'middle', size: 10 });
    });
  }
  text(MARGIN, legendAt + 62, keys.filter(Boolean).join('     '), { fill: theme.muted });
  const right = (item: Item) => {
    switch (item.kind) {
      case 'text':
        return item.x + item.text.length * item.size * CHARACTER * { start: 1, middle: 0.5, end: 0 }[item.anchor];
      case 'dot':
        return item.x;
      case 'line':
        return Math.max(...item.points.map(([x]) => x));
      default:
        return item.x + item.width;
    }
  };
  const size = { width: Math.ceil(Math.max(...items.map(right))) + MARGIN, height: legendAt + 62 + MARGIN };
  return { ...size, font: 'system-ui, sans-serif', items: [{ kind: 'box', x: 0, y: 0, ...size, fill: theme.background }, ...items] };
}
