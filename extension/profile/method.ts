/** Which of a layer's curves speaks for it: the tree and the heatmap take the same one. */
import type { Curve, Sensitivity } from '../protocol/types.ts';

/** A list of a curve: losses, each predicted for another way to truncate. */
export type LossKey = keyof Pick<Curve, 'plain' | 'input' | 'fisher'>;

/** How the cells of a profile were truncated, and so the curve that predicts them. */
export function methodOf({ method = 'plain' }: Pick<Sensitivity, 'method'>): LossKey {
  return method;
}
