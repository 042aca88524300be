/** The report's charts as pictures: bars of times, and quality against size or speed. No DOM here. */
import { t } from '../ui/l10n.ts';
import { CHARACTER, type Item, type Scene, type TextLook } from '../ui/scene.ts';
import { formatNumber } from '../../extension/runs/format.ts';
import type { Bar, ScatterPoint } from './facts.ts';

export interface Look {
  readonly dark: boolean;
  readonly contrast: boolean;
  readonly background: string;
  readonly foreground: string;
  readonly muted: string;
  readonly font: string;
}

const WIDTH = 460;
const BAR = { height: 18, gap: 10 };
const PLOT = { height: 270, left: 58, right: 22, top: 40, bottom: 46 };
const TICKS = 4;
const RADIUS = 5;

/** Of colour-blind safe hues; the shape of a mark tells the same. */
export function colourOf(kind: ScatterPoint['kind'] | 'slower', { dark }: Pick<Look, 'dark'>): string {
  const colours = dark ? { original: '#cccccc', baseline: '#56b4e9', compressed: '#ffb454', slower: '#ff8f88' } : { original: '#444444', baseline: '#0072b2', compressed: '#b35000', slower: '#b01011' };
  return colours[kind];
}

/** A bar for each model, and a line where the original's time is. */
export function barsPicture(title: string, bars: readonly Bar[], look: Look): Scene {
  const items: Item[] = [];
  const text = writer(items, look);
  const label = Math.min(180, Math.max(...bars.map(({ name }) => name.length * 12 * CHARACTER), 40) + 10);
  const longest = Math.max(1.1, ...bars.map(({ ratio, noise }) => ratio + noise));
  const room = WIDTH - label - 84;
  const at = (ratio: number) => label + (ratio / longest) * room;
  const top = 30;
  const height = top + bars.length * (BAR.height + BAR.gap) + 24;
  text(0, 14, title, { bold: true, size: 13 });
  bars.forEach(({ name, ratio, noise }, row) => {
    const y = top + row * (BAR.height + BAR.gap);
    const slower = ratio > 1 + noise;
    const told = t('{0}: {1} of the original’s time{2}', name, ratio.toFixed(2), noise > 0 ? ` ± ${noise.toFixed(2)}` : '');
    text(label - 8, y + 13, cut(name, label), { anchor: 'end' });
    items.push({ kind: 'box', x: label, y, width: Math.max(1, at(ratio) - label), height: BAR.height, fill: colourOf(slower ? 'slower' : noise === 0 ? 'original' : 'baseline', look), hint: told });
    if (noise > 0) {
      items.push({ kind: 'line', points: [[at(Math.max(0, ratio - noise)), y + BAR.height / 2], [at(ratio + noise), y + BAR.height / 2]], stroke: look.foreground, width: 1, dashed: false });
    }
    // Right of the original's line, which it would cross otherwise.
    text(Math.max(at(ratio + noise), at(1)) + 6, y + 13, `${ratio.toFixed(2)}${slower ? ` ${t('slower')}` : ''}`);
  });
  items.push({ kind: 'line', points: [[at(1), top - 6], [at(1), height - 20]], stroke: look.muted, width: 1, dashed: true });
  text(at(1), height - 6, t('original'), { anchor: 'middle', fill: look.muted });
  return scene(WIDTH, height, items, look);
}

export interface ScatterText {
  readonly title: string;
  readonly x: string;
  readonly y: string;
  readonly formatX: (value: number) => string;
  readonly higherIsBetter: boolean;
}

/** Models as marks with their standard errors, and the front of those that no other beats in both. */
export function scatterPicture({ title, x, y, formatX, higherIsBetter }: ScatterText, points: readonly ScatterPoint[], look: Look): Scene {
  const items: Item[] = [];
  const text = writer(items, look);
  const height = PLOT.top + PLOT.height + PLOT.bottom;
  text(0, 14, title, { bold: true, size: 13 });
  const xs = span(points.map(point => point.x));
  const ys = span(points.flatMap(point => [point.y - point.error, point.y + point.error]));
  const atX = (value: number) => PLOT.left + ((value - xs.low) / (xs.high - xs.low)) * (WIDTH - PLOT.left - PLOT.right);
  const atY = (value: number) => PLOT.top + PLOT.height - ((value - ys.low) / (ys.high - ys.low)) * PLOT.height;
  for (const tick of ticks(xs)) {
    items.push({ kind: 'line', points: [[atX(tick), PLOT.top], [atX(tick), PLOT.top + PLOT.height]], stroke: faint(look), width: 1, dashed: false });
    text(atX(tick), PLOT.top + PLOT.height + 16, formatX(tick), { anchor: 'middle', fill: look.muted });
  }
  for (const tick of ticks(ys)) {
    items.push({ kind: 'line', points: [[PLOT.left, atY(tick)], [WIDTH - PLOT.right, atY(tick)]], stroke: faint(look), width: 1, dashed: false });
    text(PLOT.left - 6, atY(tick) + 4, formatNumber(tick), { anchor: 'end', fill: look.muted });
  }
  text((PLOT.left + WIDTH - PLOT.right) / 2, height - 8, x, { anchor: 'middle', fill: look.muted });
  text(0, PLOT.top - 10, higherIsBetter ? t('{0}, higher is better', y) : t('{0}, lower is better', y), { fill: look.muted });
  const front = points.filter(({ onFront }) => onFront).toSorted((one, other) => one.x - other.x);
  const steps = front.flatMap((point, index): (readonly [number, number])[] => {
    const before = front[index - 1];
    return before ? [[atX(point.x), atY(before.y)], [atX(point.x), atY(point.y)]] : [[atX(point.x), atY(point.y)]];
  });
  if (steps.length > 1) {
    items.push({ kind: 'line', points: steps, stroke: look.muted, width: 1.5, dashed: true });
  }
  const taken: { x: number; y: number; width: number }[] = [];
  for (const point of points) {
    const [px, py] = [atX(point.x), atY(point.y)];
    const fill = colourOf(point.kind, look);
    const told = `${point.name}: ${formatX(point.x)}, ${formatNumber(point.y)}${point.error > 0 ? ` ± ${formatNumber(point.error)}` : ''}${point.onFront ? t(', on the front') : ''}`;
    if (point.error > 0) {
      items.push({ kind: 'line', points: [[px, atY(point.y - point.error)], [px, atY(point.y + point.error)]], stroke: fill, width: 1, dashed: false });
    }
    items.push(
      point.kind === 'compressed'
        ? { kind: 'dot', x: px, y: py, radius: RADIUS, fill, hint: told }
        : { kind: 'box', x: px - RADIUS, y: point.kind === 'original' ? py - 2 : py - RADIUS, width: 2 * RADIUS, height: point.kind === 'original' ? 4 : 2 * RADIUS, fill, hint: told },
    );
    const label = cut(point.name, 230);
    const width = label.length * 11 * CHARACTER;
    const leftward = px + 10 + width > WIDTH;
    const from = leftward ? px - 10 - width : px + 10;
    // Above the mark, and so above the front, which begins at it; a label that would lie on another goes below.
    let line = py - 8;
    while (taken.some(other => Math.abs(other.y - line) < 12 && from < other.x + other.width && other.x < from + width)) {
      line += 20;
    }
    taken.push({ x: from, y: line, width });
    text(leftward ? px - 10 : px + 10, line, label, { anchor: leftward ? 'end' : 'start' });
  }
  return scene(WIDTH, height, items, look);
}

/** Pictures below one another, as one. */
export function stacked(scenes: readonly Scene[], look: Look): Scene {
  const GAP = 24;
  const items: Item[] = [];
  let top = GAP;
  for (const one of scenes) {
    items.push(...one.items.map(item => moved(item, GAP, top)));
    top += one.height + GAP;
  }
  return scene(Math.max(0, ...scenes.map(({ width }) => width)) + 2 * GAP, top, items, look);
}

function moved(item: Item, dx: number, dy: number): Item {
  return item.kind === 'line' ? { ...item, points: item.points.map(([x, y]) => [x + dx, y + dy]) } : { ...item, x: item.x + dx, y: item.y + dy };
}

function writer(items: Item[], look: Look) {
  return (x: number, y: number, content: string, options: Partial<TextLook> = {}) =>
    items.push({ kind: 'text', x, y, text: content, size: 11, bold: false, fill: look.foreground, anchor: 'start', ...options });
}

function scene(width: number, height: number, items: readonly Item[], { font, background }: Look): Scene {
  return { width, height, font, items: [{ kind: 'box', x: 0, y: 0, width, height, fill: background }, ...items] };
}

interface Span {
  readonly low: number;
  readonly high: number;
}

/** A little more than the values take, so that no mark lies on the edge. */
function span(values: readonly number[]): Span {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const margin = (high - low) * 0.12 || Math.abs(high) * 0.1 || 1;
  return { low: low >= 0 ? Math.max(0, low - margin) : low - margin, high: high + margin };
}

/** Round numbers within a span. */
export function ticks({ low, high }: Span): readonly number[] {
  const raw = (high - low) / TICKS;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = ([1, 2, 5, 10].find(factor => factor * power >= raw) ?? 10) * power;
  const found: number[] = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high; tick += step) {
    found.push(Number(tick.toPrecision(12)));
  }
  return found;
}

function faint({ contrast, dark }: Look): string {
  return dark ? (contrast ? '#ffffff59' : '#ffffff1f') : contrast ? '#00000059' : '#0000001a';
}

function cut(name: string, width: number): string {
  const most = Math.max(6, Math.floor((width - 8) / (11 * CHARACTER)));
  return name.length > most ? `${name.slice(0, most - 1)}…` : name;
}
