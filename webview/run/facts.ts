/** What the run panel says of a healing, as plain text: no DOM here, so it is tested by itself. */
import type { HealOptions, RunView } from '../../extension/protocol/types.ts';
import { formatBytes, formatCount, formatDuration, formatNumber, formatParameters, formatPercent } from '../../extension/runs/format.ts';
import { bestOf, type History } from '../../extension/runs/healFold.ts';
import { isActive, progressText, runOf } from '../../extension/runs/run.ts';
import { describeData, perplexityOf } from '../../extension/views/healText.ts';
import { displayLanguage, t } from '../ui/l10n.ts';

/** The engine's, where a request names none. */
const RATE = 2e-4;

export interface Tile {
  readonly name: string;
  readonly value: string;
  readonly note: string;
  /** What the figure means. */
  readonly hint: string;
}

export function optionsOf({ request }: RunView): HealOptions | undefined {
  return request?.kind === 'heal' ? request.options : undefined;
}

/** One line on what is trained, towards what, on what. */
export function leadOf(run: RunView, history: History | undefined): string {
  const options = optionsOf(run);
  const plan = history?.plan?.plan;
  if (!options) {
    return '';
  }
  const { distill = 0.5, length = 512, batch = 8, learning_rate = RATE } = options;
  return [
    plan ? t('{0} of {1} parameters train ({2})', formatParameters(plan.trained), formatParameters(plan.parameters), formatPercent(plan.trained / plan.parameters)) : '',
    distill === 0 ? t('towards the text alone') : distill === 1 ? t('towards what the original says') : t('towards what the original says ({0}) and the text', formatPercent(distill)),
    t('trained on {0}', describeData(options.data)),
    t('steps of {0} × {1} tokens', batch, length),
    t('learning rate up to {0}', formatRate(learning_rate)),
    run.device ? t('on {0}', run.device) : '',
  ]
    .filter(Boolean)
    .join(' · ');
}

/** How far it is, or how it ended. */
export function stateLine(run: RunView): string | undefined {
  if (run.stopping && isActive(run.state)) {
    return t('Stopping after this step: it is validated, and the best cores are kept.');
  }
  if (run.state === 'done' && run.result?.kind === 'heal') {
    const { stopped, best_step, seconds } = run.result;
    const why = { budget: t('the budget is used up'), plateau: t('nothing became better any more'), diverged: t('the loss ran away'), asked: t('it was told to stop') }[stopped];
    const cores = best_step === 0 ? t('No step was better than the start, so the cores are those of before.') : t('The model has the cores of step {0}.', formatCount(best_step));
    return t('Done in {0}: {1}. {2}', formatDuration(seconds), why, cores);
  }
  if (run.state === 'cancelled') {
    return t('Cancelled. Resume goes on from where it stopped.');
  }
  if (run.state === 'interrupted') {
    return t('Interrupted. Resume goes on from the last checkpoint.');
  }
  return run.status ? progressText(runOf({ ...run.status, state: run.state })) : undefined;
}

export function tilesOf(run: RunView, history: History | undefined): readonly Tile[] {
  const plan = history?.plan?.plan;
  const last = history?.steps.at(-1);
  const start = history?.validations.find(({ step }) => step === 0);
  const best = bestOf(history?.validations ?? []);
  const original = history?.plan?.teacher_loss;
  const tiles: Tile[] = [];
  if (plan && last) {
    tiles.push({
      name: t('Step'),
      value: t('{0} of {1}', formatCount(last.step), formatCount(plan.steps)),
      note: t('{0} of {1} tokens', formatParameters(last.step * plan.tokens_per_step), formatParameters(plan.steps * plan.tokens_per_step)),
      hint: t('A step is one update of what trains, from one batch of sequences.'),
    });
  }
  if (start && best) {
    tiles.push({
      name: t('Perplexity'),
      value: `${perplexityOf(start.loss)} → ${perplexityOf(best.loss)}`,
      note: typeof original === 'number' ? t('the original has {0}', perplexityOf(original)) : t('on text held back'),
      hint: t('On text held back, which is not trained on: before healing, and at the best validation. Lower is better.'),
    });
    const lost = typeof original === 'number' ? start.loss - original : 0;
    if (lost > 0) {
      tiles.push({
        name: t('Won back'),
        value: formatPercent(Math.max(0, (start.loss - best.loss) / lost)),
        note: best.step === 0 ? t('no step was better yet') : t('best at step {0}', formatCount(best.step)),
        hint: t('Of the {0} nats per token by which compression raised the loss on the held-back text.', formatNumber(lost)),
      });
    }
  }
  if (last) {
    tiles.push(
      { name: t('Training loss'), value: t('{0} nats', formatNumber(last.cross_entropy)), note: t('gradient norm {0}', formatNumber(last.gradient)), hint: t('Cross entropy per token on what is trained on, the latest.') },
      { name: t('Learning rate'), value: formatRate(last.learning_rate), note: t('at most {0}', formatRate(optionsOf(run)?.learning_rate ?? RATE)), hint: t('Of the latest step: it rises in the warm-up, then falls along half a cosine.') },
      { name: t('Tokens per second'), value: formatNumber(last.tokens_per_second), note: plan ? t('{0} a step', formatDuration(plan.tokens_per_step / last.tokens_per_second)) : '', hint: t('Tokens trained on; validations do not count.') },
      memoryTile(last.memory, run.estimate?.memory_available),
    );
  }
  return [...tiles, ...timeTile(run)];
}

function memoryTile(memory: Readonly<Record<string, number>>, available: number | undefined): Tile {
  const devices = Object.entries(memory);
  const most = Math.max(0, ...devices.map(([, bytes]) => bytes));
  const note = devices.length > 1 ? devices.map(([device, bytes]) => `${device} ${formatBytes(bytes)}`).join(', ') : `${devices[0]?.[0] ?? ''}${available === undefined ? '' : t('; {0} were free', formatBytes(available))}`;
  return { name: t('Memory'), value: formatBytes(most), note, hint: t('On a GPU the most that was in use so far; on a CPU what the process has now.') };
}

function timeTile({ state, status, result }: RunView): readonly Tile[] {
  const eta = status?.progress?.eta;
  if (state === 'running' && typeof eta === 'number') {
    return [{ name: t('Time left'), value: formatDuration(eta), note: t('ends about {0}', clock(eta)), hint: t('From the pace of the last half minute; checking and measuring the model come after that.') }];
  }
  return state === 'done' && result ? [{ name: t('Took'), value: formatDuration(result.seconds), note: '', hint: t('The process that ended the run; what others did before a resume is not in it.') }] : [];
}

function clock(seconds: number): string {
  return new Date(Date.now() + 1000 * seconds).toLocaleTimeString(displayLanguage(), { hour: '2-digit', minute: '2-digit' });
}

/** `5e-4`. */
export function formatRate(rate: number): string {
  return rate === 0 ? '0' : Number(rate.toPrecision(2)).toExponential();
}

/** KL(original ‖ model), nats per token, out of the mix that is trained on; undefined without distillation. */
export function klOf({ loss, cross_entropy }: { readonly loss: number; readonly cross_entropy: number }, options: HealOptions | undefined): number | undefined {
  const { distill = 0.5, temperature = 1 } = options ?? {};
  return options && distill > 0 ? Math.max(0, (loss - (1 - distill) * cross_entropy) / (distill * temperature ** 2)) : undefined;
}
