import { describe, expect, test } from 'vitest';
import { colourAt, inkOn, makeScale, type Rgb, roundest, ticks, viridis } from '../../webview/ui/scale.ts';

/** Lightness by CIE 1976, from sRGB. */
function lightness([red, green, blue]: Rgb): number {
  const linear = (channel: number) => (channel / 255 <= 0.04045 ? channel / 255 / 12.92 : ((channel / 255 + 0.055) / 1.055) ** 2.4);
  const y = 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue);
  return y > 216 / 24389 ? 116 * Math.cbrt(y) - 16 : (24389 / 27) * y;
}

function contrast(a: number, b: number): number {
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}

function luminance(colour: Rgb): number {
  const l = lightness(colour);
  return l > 8 ? ((l + 16) / 116) ** 3 : (l * 27) / 24389;
}

describe('viridis', () => {
  test('has the published colours', () => {
    // matplotlib.cm.viridis at 0, 64, 128, 192 and 255.
    const hex = [0, 64, 128, 192, 255].map(index => viridis(index / 255).map(channel => channel.toString(16).padStart(2, '0')).join(''));
    expect(hex).toEqual(['440154', '3b528b', '21918c', '5ec962', 'fde725']);
  });

  test('gets lighter at every step, and by about as much', () => {
    const steps = Array.from({ length: 256 }, (_, index) => lightness(viridis(index / 255)));
    steps.slice(1).forEach((step, index) => expect(step).toBeGreaterThan((steps[index] ?? 0) - 0.05));
    const quarters = [0, 64, 128, 192, 255].map(index => steps[index] ?? 0);
    const spans = quarters.slice(1).map((value, index) => value - (quarters[index] ?? 0));
    expect(Math.max(...spans) / Math.min(...spans)).toBeLessThan(1.35);
  });

  test('puts what is worse where the background is not', () => {
    expect(lightness(colourAt(1, true))).toBeGreaterThan(lightness(colourAt(0, true)));
    expect(lightness(colourAt(1, false))).toBeLessThan(lightness(colourAt(0, false)));
  });

  test('can be read on: at least 4.5 to 1 everywhere', () => {
    for (let index = 0; index < 256; index++) {
      const colour = viridis(index / 255);
      expect(contrast(luminance(colour), inkOn(colour) === '#ffffff' ? 1 : 0)).toBeGreaterThan(4.5);
    }
  });
});

describe('a scale', () => {
  const limits = { decades: 4, most: 10 };

  test('is logarithmic between round ends, and the same both ways', () => {
    const scale = makeScale('log', [0.013, 0.4, 2.3, -1, 0, NaN], limits);
    expect([scale.low, scale.high, scale.cut]).toEqual([0.01, 5, false]);
    expect(scale.position(0.01)).toBe(0);
    expect(scale.position(-3)).toBe(0);
    expect(scale.position(5)).toBe(1);
    expect(scale.position(Math.sqrt(0.05))).toBeCloseTo(0.5, 10);
    for (const rise of [0.011, 0.3, 4]) {
      expect(scale.rise(scale.position(rise))).toBeCloseTo(rise, 10);
    }
  });

  test('stays while figures come in that lie inside', () => {
    const before = makeScale('log', [0.013, 2.3], limits);
    const after = makeScale('log', [0.013, 2.3, 0.5, 4.9, 0.0101], limits);
    expect([after.low, after.high]).toEqual([before.low, before.high]);
  });

  test('is cut where a model is dead, and spans at most so many decades', () => {
    const scale = makeScale('log', [1e-9, 2000], limits);
    expect([scale.low, scale.high, scale.cut]).toEqual([0.001, 10, true]);
    expect(scale.position(2000)).toBe(1);
  });

  test('is linear from the baseline', () => {
    const scale = makeScale('linear', [0.37], { decades: 4, most: Infinity });
    expect([scale.low, scale.high]).toEqual([0, 0.5]);
    expect(scale.position(0.25)).toBe(0.5);
  });

  test('is there before any figure is', () => {
    expect(makeScale('log', [], limits).position(0)).toBe(0);
    expect(makeScale('linear', [-1, 0], limits).position(-1)).toBe(0);
  });
});

describe('ticks', () => {
  test('are the numbers with the fewest digits', () => {
    expect(roundest(4.7, 6.1)).toBe(5);
    expect(roundest(15, 22)).toBe(20);
    expect(roundest(15.41, 15.62)).toBe(15.5);
    expect(roundest(0.00081, 0.0013)).toBe(0.001);
    expect(roundest(-0.2, 3)).toBe(0);
    expect(roundest(-22, -15)).toBe(-20);
    expect(roundest(7, 7)).toBe(7);
  });

  test('stand where their values are, in the unit of the metric', () => {
    const scale = makeScale('log', [0.001, 5], { decades: 4, most: 10 });
    const baseline = 15.4;
    const found = ticks(scale, 4, rise => baseline * Math.exp(rise), value => Math.log(value / baseline));
    expect(found.length).toBeGreaterThanOrEqual(4);
    for (const { position, value } of found) {
      expect(baseline * Math.exp(scale.rise(position))).toBeCloseTo(value, 6);
    }
    expect(found.map(({ value }) => value)).toEqual(found.map(({ value }) => value).toSorted((a, b) => a - b));
    expect(found[0]?.position).toBeLessThan(0.15);
    expect(found.at(-1)?.position).toBeGreaterThan(0.85);
  });
});
