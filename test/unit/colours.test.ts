import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { expect, test } from 'vitest';
import { LEVELS } from '../../extension/profile/levels.ts';

interface Manifest {
  readonly contributes: { readonly colors: readonly { readonly id: string; readonly defaults: Readonly<Record<string, string>> }[] };
}

interface Look {
  /** Of the side bar, in the themes that VS Code brings. */
  readonly sideBars: readonly string[];
  /** Of selected rows, whose text is not paled. */
  readonly selected: readonly string[];
  /** How VS Code pales a row's second text. */
  readonly opacity: number;
}

const THEMES: Readonly<Record<string, Look>> = {
  dark: { sideBars: ['#181818', '#252526', '#191a1b'], selected: ['#04395e', '#37373d'], opacity: 0.7 },
  light: { sideBars: ['#f8f8f8', '#f3f3f3', '#fafafd'], selected: ['#e4e6f1', '#e8e8e8'], opacity: 0.95 },
  highContrast: { sideBars: ['#000000'], selected: [], opacity: 0.7 },
  highContrastLight: { sideBars: ['#ffffff'], selected: [], opacity: 0.7 },
};
/** The badge, which is no text but a bar; it is paled too. */
const BADGE = { opacity: 0.75, contrast: 3 };

/** WCAG 2.2, relative luminance. */
function luminance(colour: readonly number[]): number {
  const [red = 0, green = 0, blue = 0] = colour.map(channel => {
    const part = channel / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

function channels(colour: string): readonly number[] {
  return [1, 3, 5].map(at => Number.parseInt(colour.slice(at, at + 2), 16));
}

function contrast(colour: string, background: string, opacity = 1): number {
  const behind = channels(background);
  const mixed = channels(colour).map((channel, i) => opacity * channel + (1 - opacity) * (behind[i] ?? 0));
  const [dark = 0, light = 0] = [luminance(mixed), luminance(behind)].sort((x, y) => x - y);
  return (light + 0.05) / (dark + 0.05);
}

const manifest = JSON.parse(await readFile(path.join(import.meta.dirname, '../../package.json'), 'utf8')) as Manifest;
const { colors } = manifest.contributes;

test('the contrast of black and white is 21, of one colour 1', () => {
  expect(contrast('#000000', '#ffffff')).toBeCloseTo(21);
  expect(contrast('#777777', '#ffffff')).toBeCloseTo(4.48, 2);
  expect(contrast('#123456', '#123456')).toBe(1);
});

test.each(['tensorized', ...LEVELS.map(level => `sensitivity.${level}`)])('a row and badge of the colour %s can be read on every default theme', name => {
  const defaults = colors.find(({ id }) => id === `bondwise.${name}`)?.defaults ?? {};
  expect(Object.keys(defaults).sort()).toEqual(Object.keys(THEMES).sort());
  for (const [theme, { sideBars, selected, opacity }] of Object.entries(THEMES)) {
    const colour = defaults[theme] ?? '';
    for (const sideBar of sideBars) {
      expect(contrast(colour, sideBar, opacity), `${theme}, ${sideBar}`).toBeGreaterThanOrEqual(4.5);
      expect(contrast(colour, sideBar, BADGE.opacity), `${theme}, ${sideBar}, badge`).toBeGreaterThanOrEqual(BADGE.contrast);
    }
    for (const row of selected) {
      expect(contrast(colour, row), `${theme}, ${row}`).toBeGreaterThanOrEqual(4.5);
    }
  }
});

test('no two levels have one colour', () => {
  for (const theme of Object.keys(THEMES)) {
    const levels = colors.filter(({ id }) => id.startsWith('bondwise.sensitivity.'));
    expect(new Set(levels.map(({ defaults }) => defaults[theme])).size).toBe(LEVELS.length);
  }
});
