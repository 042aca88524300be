import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { expect, test } from 'vitest';
import { LEVELS } from '../../extension/profile/levels.ts';

interface Manifest {
  readonly contributes: { readonly colors: readonly { readonly id: string; readonly defaults: Readonly<Record<string, string>> }[] };
}

/** What lies behind a row of a tree: side bars, and selected rows, of the themes that VS Code brings. */
const BACKGROUNDS: Readonly<Record<string, readonly string[]>> = {
  dark: ['#181818', '#252526', '#191a1b', '#04395e', '#37373d'],
  light: ['#f8f8f8', '#f3f3f3', '#fafafd', '#e4e6f1', '#e8e8e8'],
  highContrast: ['#000000'],
  highContrastLight: ['#ffffff'],
};

/** WCAG 2.2, relative luminance. */
function luminance(colour: string): number {
  const [red = 0, green = 0, blue = 0] = [1, 3, 5].map(at => {
    const part = Number.parseInt(colour.slice(at, at + 2), 16) / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

function contrast(a: string, b: string): number {
  const [dark = 0, light = 0] = [luminance(a), luminance(b)].sort((x, y) => x - y);
  return (light + 0.05) / (dark + 0.05);
}

const manifest = JSON.parse(await readFile(path.join(import.meta.dirname, '../../package.json'), 'utf8')) as Manifest;
const { colors } = manifest.contributes;

test('the contrast of black and white is 21, of one colour 1', () => {
  expect(contrast('#000000', '#ffffff')).toBeCloseTo(21);
  expect(contrast('#777777', '#ffffff')).toBeCloseTo(4.48, 2);
  expect(contrast('#123456', '#123456')).toBe(1);
});

test.each(LEVELS)('the badge of %s sensitivity can be read on every default theme', level => {
  const defaults = colors.find(({ id }) => id === `bondwise.sensitivity.${level}`)?.defaults ?? {};
  expect(Object.keys(defaults).sort()).toEqual(Object.keys(BACKGROUNDS).sort());
  for (const [theme, backgrounds] of Object.entries(BACKGROUNDS)) {
    for (const background of backgrounds) {
      expect(contrast(defaults[theme] ?? '', background), `${theme}, ${background}`).toBeGreaterThanOrEqual(4.5);
    }
  }
});

test('no two levels have one colour', () => {
  for (const theme of Object.keys(BACKGROUNDS)) {
    expect(new Set(colors.map(({ defaults }) => defaults[theme])).size).toBe(LEVELS.length);
  }
});
