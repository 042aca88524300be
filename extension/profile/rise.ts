/** What a measured cell says of the loss. */
import type { Cell } from '../protocol/types.ts';

/**
 * The rise of the mean loss, nats per token, and its standard error, as the planner reads a cell (`measured_rise` in the engine): from the loss
 * or its exponential, or the KL to the original, which is that rise on text of the model's own; of the two the surer.
 */
export function riseOf({ figures }: Cell, baseline: Readonly<Record<string, number>>): { readonly rise: number; readonly error: number } | undefined {
  const { loss, kl, perplexity } = figures;
  const own =
    loss && baseline.loss !== undefined
      ? { rise: loss.value - baseline.loss, error: loss.error }
      : perplexity && baseline.perplexity !== undefined
        ? { rise: Math.log(perplexity.value / baseline.perplexity), error: perplexity.error / perplexity.value }
        : undefined;
  return kl && !(own && own.error < kl.error) ? { rise: kl.value, error: kl.error } : own;
}
