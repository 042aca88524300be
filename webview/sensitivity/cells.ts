/** Look of the cells: the same on the screen and in a picture to keep. */
import { colourAt, css, inkOn, type Scale } from '../ui/scale.ts';
import type { Value } from './figures.ts';

/** Radius of the mark for noise. */
export const DOT = 2;

export function look(value: Value, scale: Scale, dark: boolean): { readonly fill: string; readonly ink: string } {
  const colour = colourAt(scale.position(value.rise), dark);
  return { fill: css(colour), ink: inkOn(colour) };
}
