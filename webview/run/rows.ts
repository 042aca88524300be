/** The curves as numbers: no DOM here, so it is tested by itself. */
import type { RunView } from '../../extension/protocol/types.ts';
import { formatBytes, formatNumber } from '../../extension/runs/format.ts';
import { HealFold, type History } from '../../extension/runs/healFold.ts';
import { perplexityOf } from '../../extension/views/healText.ts';
import { t } from '../ui/l10n.ts';
import { formatRate, klOf, optionsOf } from './facts.ts';

/** More rows nobody reads; each then stands for several steps. */
const ROWS = 200;

export interface Row {
  readonly step: number;
  readonly cells: readonly string[];
}

export const COLUMNS = [t('Step'), t('Validation loss, nats'), t('Perplexity'), t('Training loss, nats'), t('KL, nats'), t('Learning rate'), t('Tokens/s'), t('Memory'), t('Gradient norm')] as const;

/** The latest first: it is what changes. A validation and the steps up to it stand in one row. */
export function rowsOf(run: RunView, history: History): readonly Row[] {
  const thinned = new HealFold(ROWS);
  history.steps.forEach(step => thinned.add(step));
  const options = optionsOf(run);
  const trained = new Map((thinned.value?.steps ?? []).map(step => [step.step, step]));
  const validated = new Map(history.validations.map(validation => [validation.step, validation]));
  return [...new Set([...trained.keys(), ...validated.keys()])]
    .sort((a, b) => b - a)
    .map(step => {
      const [training, validation] = [trained.get(step), validated.get(step)];
      const kl = training && klOf(training, options);
      return {
        step,
        cells: [
          ...(validation ? [validation.loss.toFixed(3), perplexityOf(validation.loss)] : ['', '']),
          ...(training
            ? [
                training.cross_entropy.toFixed(3),
                kl === undefined ? '' : kl.toFixed(3),
                formatRate(training.learning_rate),
                formatNumber(training.tokens_per_second),
                Object.values(training.memory).map(formatBytes).join(', '),
                training.gradient.toFixed(3),
              ]
            : ['', '', '', '', '', '']),
        ],
      };
    });
}
