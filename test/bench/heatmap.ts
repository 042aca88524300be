/**
 * The heatmap of 100 blocks × 10 layers × 16 bond dimensions in the real browser: milliseconds to open the profile (validate, index,
 * draw), to draw it again, to follow the slider and the pointer. The drawn pixels are read back, so that drawing has really been done.
 *
 * `first` is a page that has compiled nothing yet, `min` and `median` are of many on the same page. Frames while hovering are real ones:
 * milliseconds between two of them, with the pointer moved by the browser's own input.
 */
import type { Page } from 'playwright-core';
import { LARGE, makeProfile } from '../unit/heatmapProfile.ts';
import type { Row } from './bench.ts';
import { viewWindow } from './heatmap/page.ts';

const PAGES = 3;

/** Runs in the page: what a frame would do is done at once and timed with what asked for it. */
const SETUP = `
  window.frames_ = [];
  window.realFrame = window.requestAnimationFrame.bind(window);
  window.timed = act => {
    window.requestAnimationFrame = callback => window.frames_.push(callback);
    const start = performance.now();
    act();
    window.frames_.splice(0).forEach(callback => callback(start));
    document.body.getBoundingClientRect();
    document.querySelector('.cells canvas').getContext('2d').getImageData(0, 0, 1, 1);
    const taken = performance.now() - start;
    window.requestAnimationFrame = window.realFrame;
    return taken;
  };
  window.repeat = (count, act) => Array.from({ length: count }, (_, index) => act(index));
  window.tell = data => window.dispatchEvent(new MessageEvent('message', { data }));
`;

export async function bench(): Promise<Row[]> {
  const profile = makeProfile(LARGE);
  const message = { type: 'sensitivity', profile, notes: [] };
  const view = await viewWindow();
  const found = new Map<string, { readonly first: number[]; readonly again: number[] }>();
  const note = (what: string, times: readonly number[]): void => {
    const [first = 0, ...again] = times;
    const entry = found.get(what) ?? { first: [], again: [] };
    found.set(what, { first: [...entry.first, first], again: [...entry.again, ...again] });
  };
  try {
    for (let index = 0; index < PAGES; index++) {
      const page = await view.open();
      await page.evaluate(SETUP);
      note('open the profile', await times(page, 'message => repeat(5, () => timed(() => tell(message)))', message));
      note('draw', await times(page, DRAW));
      note('move the slider', await times(page, SLIDE));
      note('a new cell', await times(page, GROW, profile.cells?.[7]));
      note('move the pointer', await times(page, POINTER));
      note('frame while hovering', await hover(page));
      await page.context().close();
    }
  } finally {
    await view.close();
  }
  return [...found].map(([what, { first, again }]) => ({
    what,
    first_ms: median(first),
    min_ms: Math.min(...again),
    median_ms: median(again),
    p95_ms: quantile(again, 0.95),
  }));
}

const DRAW = `() => repeat(20, i => timed(() => tell({ type: 'selection', layers: i % 2 ? [] : ['model.layers.3.attn.part1'] })))`;

const SLIDE = `() => {
  const slider = document.querySelector('input[type=range]');
  return repeat(32, i => {
    slider.value = String(i % 16);
    return timed(() => slider.dispatchEvent(new Event('input')));
  });
}`;

const GROW = `cell => repeat(20, i => timed(() => tell({ type: 'cells', cells: [{ ...cell, seconds: i }] })))`;

const POINTER = `() => {
  const cells = document.querySelector('.cells');
  const { left, top } = cells.getBoundingClientRect();
  return repeat(60, i => {
    const event = new PointerEvent('pointermove', { bubbles: true, clientX: left + 10 + ((i * 37) % 400), clientY: top + 10 + ((i * 53) % 400) });
    const start = performance.now();
    cells.dispatchEvent(event);
    document.body.getBoundingClientRect();
    return performance.now() - start;
  });
}`;

/** Milliseconds between frames while the pointer crosses the cells; the first is left to warm up. */
async function hover(page: Page): Promise<readonly number[]> {
  const box = await page.locator('.cells').boundingBox();
  if (!box) {
    throw new Error('The heatmap is not drawn.');
  }
  await page.evaluate(`
    window.ticks_ = [];
    window.go = true;
    requestAnimationFrame(function tick(at) {
      window.ticks_.push(at);
      if (window.go) requestAnimationFrame(tick);
    });
  `);
  for (let i = 0; i < 80; i++) {
    await page.mouse.move(box.x + 10 + ((i * 5) % 400), box.y + 10 + ((i * 7) % 400));
  }
  const ticks = await page.evaluate<number[]>('window.go = false, window.ticks_');
  return ticks.slice(1).map((at, index) => at - (ticks[index] ?? at));
}

async function times(page: Page, code: string, argument?: unknown): Promise<readonly number[]> {
  return page.evaluate<number[]>(`(${code})(${argument === undefined ? '' : JSON.stringify(argument)})`);
}

function median(values: readonly number[]): number {
  return quantile(values, 0.5);
}

function quantile(values: readonly number[], part: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(part * sorted.length))] ?? NaN;
}
