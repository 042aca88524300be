/** From values to colours: viridis, scales in a metric's own unit, and round ticks. */

export type Rgb = readonly [red: number, green: number, blue: number];

/**
 * The 256 colours of viridis (van der Walt and Smith 2015, released as CC0): equal steps look equal, also to colour-blind eyes and in grey.
 */
const VIRIDIS =
  '44015444025645045745055946075a46085c460a5d460b5e470d60470e6147106347116447136548146748166848176948186a481a6c481b6d481c6e' +
  '481d6f481f70482071482173482374482475482576482677482878482979472a7a472c7a472d7b472e7c472f7d46307e46327e46337f463480453581' +
  '453781453882443983443a83443b84433d84433e85423f854240864241864142874144874045884046883f47883f48893e49893e4a893e4c8a3d4d8a' +
  '3d4e8a3c4f8a3c508b3b518b3b528b3a538b3a548c39558c39568c38588c38598c375a8c375b8d365c8d365d8d355e8d355f8d34608d34618d33628d' +
  '33638d32648e32658e31668e31678e31688e30698e306a8e2f6b8e2f6c8e2e6d8e2e6e8e2e6f8e2d708e2d718e2c718e2c728e2c738e2b748e2b758e' +
  '2a768e2a778e2a788e29798e297a8e297b8e287c8e287d8e277e8e277f8e27808e26818e26828e26828e25838e25848e25858e24868e24878e23888e' +
  '23898e238a8d228b8d228c8d228d8d218e8d218f8d21908d21918c20928c20928c20938c1f948c1f958b1f968b1f978b1f988b1f998a1f9a8a1e9b8a' +
  '1e9c891e9d891f9e891f9f881fa0881fa1881fa1871fa28720a38620a48621a58521a68522a78522a88423a98324aa8325ab8225ac8226ad8127ad81' +
  '28ae8029af7f2ab07f2cb17e2db27d2eb37c2fb47c31b57b32b67a34b67935b77937b87838b9773aba763bbb753dbc743fbc7340bd7242be7144bf70' +
  '46c06f48c16e4ac16d4cc26c4ec36b50c46a52c56954c56856c66758c7655ac8645cc8635ec96260ca6063cb5f65cb5e67cc5c69cd5b6ccd5a6ece58' +
  '70cf5773d05675d05477d1537ad1517cd2507fd34e81d34d84d44b86d54989d5488bd6468ed64590d74393d74195d84098d83e9bd93c9dd93ba0da39' +
  'a2da37a5db36a8db34aadc32addc30b0dd2fb2dd2db5de2bb8de29bade28bddf26c0df25c2df23c5e021c8e020cae11fcde11dd0e11cd2e21bd5e21a' +
  'd8e219dae319dde318dfe318e2e418e5e419e7e419eae51aece51befe51cf1e51df4e61ef6e620f8e621fbe723fde725';

/** @param position 0 for the dark end, 1 for the light one. */
export function viridis(position: number): Rgb {
  const index = 6 * Math.round(255 * Math.min(1, Math.max(0, position)));
  const channel = (at: number) => Number.parseInt(VIRIDIS.slice(index + at, index + at + 2), 16);
  return [channel(0), channel(2), channel(4)];
}

/** What stands out has the larger rise: light on dark themes, dark on light ones. */
export function colourAt(position: number, dark: boolean): Rgb {
  return viridis(dark ? position : 1 - position);
}

export function css([red, green, blue]: Rgb): string {
  return `rgb(${red},${green},${blue})`;
}

/** Black or white, whichever has the higher contrast by WCAG 2. */
export function inkOn(colour: Rgb): string {
  const [red = 0, green = 0, blue = 0] = colour.map(channel => (channel <= 10 ? channel / 3294.6 : ((channel / 255 + 0.055) / 1.055) ** 2.4));
  const luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  return luminance > Math.sqrt(1.05 * 0.05) - 0.05 ? '#000000' : '#ffffff';
}

/** From rises above the baseline to places on the colour scale. */
export interface Scale {
  readonly kind: 'log' | 'linear';
  readonly low: number;
  readonly high: number;
  /** There are rises above `high`: they have its colour. */
  readonly cut: boolean;
  /** 0 … 1; what is outside has the nearest end's. */
  position(rise: number): number;
  /** The rise at a position. */
  rise(position: number): number;
}

/** Rises from `low` to `high`, made a little wider so that its ends are round and seldom move while figures come in. */
export function makeScale(kind: Scale['kind'], rises: Iterable<number>, limits: { readonly decades: number; readonly most: number }): Scale {
  let [least, most] = [Infinity, 0];
  for (const rise of rises) {
    if (rise > 0 && Number.isFinite(rise)) {
      least = Math.min(least, rise);
      most = Math.max(most, rise);
    }
  }
  const cut = most > limits.most;
  const high = most === 0 ? 1 : Math.min(limits.most, roundUp(most));
  if (kind === 'linear') {
    return { kind, low: 0, high, cut, position: rise => clamp(rise / high), rise: position => position * high };
  }
  const low = Math.max(roundDown(Math.min(least, high / 10)), high / 10 ** limits.decades);
  const span = Math.log(high / low);
  return {
    kind,
    low,
    high,
    cut,
    position: rise => (rise <= low ? 0 : clamp(Math.log(rise / low) / span)),
    rise: position => low * Math.exp(position * span),
  };
}

/** The number with the fewest digits in [low, high]: 5 between 4.7 and 6.1, 20 between 15 and 22. */
export function roundest(low: number, high: number): number {
  if (low <= 0 && high >= 0) {
    return 0;
  }
  if (high < 0) {
    return -roundest(-high, -low);
  }
  for (let power = Math.floor(Math.log10(high)); ; power--) {
    for (const step of [5, 2, 1]) {
      const size = step * 10 ** power;
      const candidate = Math.ceil(low / size - 1e-9) * size;
      if (candidate <= high * (1 + 1e-12)) {
        return Number(candidate.toPrecision(12));
      }
    }
  }
}

export interface Tick {
  readonly position: number;
  readonly value: number;
}

/**
 * Round values at about equal distances, from the lower end to the upper one.
 * @param value from a rise to the metric's own unit
 * @param rise the inverse of `value`
 */
export function ticks(scale: Scale, count: number, value: (rise: number) => number, rise: (value: number) => number): readonly Tick[] {
  const found: Tick[] = [];
  for (let i = 0; i <= count; i++) {
    const at = i / count;
    const ends = [value(scale.rise(Math.max(0, at - 0.3 / count))), value(scale.rise(Math.min(1, at + 0.3 / count)))];
    const round = roundest(Math.min(...ends), Math.max(...ends));
    found.push({ value: round, position: scale.position(rise(round)) });
  }
  // The ends count most: a neighbour that comes too near to one of them goes.
  return found.filter(({ position }, i) => i === 0 || i === count || (position > 0.5 / count && position < 1 - 0.85 / count));
}

function roundUp(value: number): number {
  const power = 10 ** Math.floor(Math.log10(value));
  return ([1, 2, 5].find(step => step * power >= value * (1 - 1e-9)) ?? 10) * power;
}

function roundDown(value: number): number {
  const power = 10 ** Math.floor(Math.log10(value));
  return ([5, 2].find(step => step * power <= value * (1 + 1e-9)) ?? 1) * power;
}

function clamp(position: number): number {
  return Math.min(1, Math.max(0, position));
}
