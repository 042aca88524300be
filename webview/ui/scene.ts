/** A picture as shapes and texts with their places, from which the page, the SVG and the PNG are made. No DOM here. */

export type Item =
  | { readonly kind: 'box'; readonly x: number; readonly y: number; readonly width: number; readonly height: number; readonly fill: string; readonly hint?: string }
  | { readonly kind: 'dot'; readonly x: number; readonly y: number; readonly radius: number; readonly fill: string; readonly hint?: string }
  /** Through these points. */
  | { readonly kind: 'line'; readonly points: readonly (readonly [number, number])[]; readonly stroke: string; readonly width: number; readonly dashed: boolean }
  /** A place without a figure. */
  | { readonly kind: 'stripes'; readonly x: number; readonly y: number; readonly width: number; readonly height: number; readonly stroke: string }
  | (TextLook & { readonly kind: 'text'; readonly x: number; readonly y: number; readonly text: string });

export interface TextLook {
  readonly size: number;
  readonly bold: boolean;
  readonly fill: string;
  readonly anchor: 'start' | 'middle' | 'end';
}

export interface Scene {
  readonly width: number;
  readonly height: number;
  readonly font: string;
  readonly items: readonly Item[];
}

/** Of an average character, as a part of the font size: what a text takes without a font to measure it by. */
export const CHARACTER = 0.56;
/** Between two stripes. */
const STRIPE = 6;

/** Lines at 45 degrees, cut at the edges of the box. */
export function stripesOf({ x, y, width, height }: Extract<Item, { kind: 'stripes' }>): (readonly [number, number, number, number])[] {
  const lines: (readonly [number, number, number, number])[] = [];
  for (let at = STRIPE; at < width + height; at += STRIPE) {
    const [fromX, toX] = [Math.max(0, at - height), Math.min(at, width)];
    lines.push([x + fromX, y + at - fromX, x + toX, y + at - toX]);
  }
  return lines;
}
