/** What the run panel says of a healing, as plain text: no DOM here, so it is tested by itself. */
import type { HealOptions, RunView } from '../../extension/protocol/types.ts';
import { formatBytes, formatDuration, formatNumber, formatParameters, formatPercent } from '../../extension/runs/format.ts';
import { bestOf, type History } from '../../extension/runs/healFold.ts';
import { isActive, progressText, runOf } from '../../extension/runs/run.ts';
import { describeData, perplexityOf } from '../../extension/views/healText.ts';

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
  const { distill = 0.5, length = 512, batch = 8, learning_rate = 5e-4 } = options;
  return [
    plan ? `${formatParameters(plan.trained)} of ${formatParameters(plan.parameters)} parameters train (${formatPercent(plan.trained / plan.parameters)})` : '',
    distill === 0 ? 'towards the text alone' : distill === 1 ? 'towards what the original says' : `towards what the original says (${formatPercent(distill)}) and the text`,
    `on ${describeData(options.data)}`,
    `steps of ${batch} × ${length} tokens`,
    `learning rate up to ${formatRate(learning_rate)}`,
    run.device ? `on ${run.device}` : '',
  ]
    .filter(Boolean)
    .join(' · ');
}

/** How far it is, or how it ended. */
export function stateLine(run: RunView): string | undefined {
  if (run.stopping && isActive(run.state)) {
    return 'Stopping after this step: it is validated, and the best cores are kept.';
  }
  if (run.state === 'done' && run.result?.kind === 'heal') {
    const { stopped, best_step, seconds } = run.result;
    const why = { budget: 'the budget is used up', plateau: 'nothing became better any more', diverged: 'the loss ran away', asked: 'it was told to stop' }[stopped];
    const cores = best_step === 0 ? 'No step was better than the start, so the cores are those of before.' : `The model has the cores of step ${best_step.toLocaleString('en')}.`;
    return `Done in ${formatDuration(seconds)}: ${why}. ${cores}`;
  }
  if (run.state === 'cancelled') {
    return 'Cancelled. Resume goes on from where it stopped.';
  }
  if (run.state === 'interrupted') {
    return 'Interrupted. Resume goes on from the last checkpoint.';
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
      name: 'Step',
      value: `${last.step.toLocaleString('en')} of ${plan.steps.toLocaleString('en')}`,
      note: `${formatParameters(last.step * plan.tokens_per_step)} of ${formatParameters(plan.steps * plan.tokens_per_step)} tokens`,
      hint: 'A step is one update of what trains, from one batch of sequences.',
    });
  }
  if (start && best) {
    tiles.push({
      name: 'Perplexity',
      value: `${perplexityOf(start.loss)} → ${perplexityOf(best.loss)}`,
      note: typeof original === 'number' ? `the original has ${perplexityOf(original)}` : 'on text held back',
      hint: 'On text held back, which is not trained on: before healing, and at the best validation. Lower is better.',
    });
    const lost = typeof original === 'number' ? start.loss - original : 0;
    if (lost > 0) {
      tiles.push({
        name: 'Won back',
        value: formatPercent(Math.max(0, (start.loss - best.loss) / lost)),
        note: best.step === 0 ? 'no step was better yet' : `best at step ${best.step.toLocaleString('en')}`,
        hint: `Of the ${formatNumber(lost)} nats per token by which compression raised the loss on the held-back text.`,
      });
    }
  }
  if (last) {
    tiles.push(
      { name: 'Training loss', value: `${formatNumber(last.cross_entropy)} nats`, note: `gradient norm ${formatNumber(last.gradient)}`, hint: 'Cross entropy per token on what is trained on, the latest.' },
      { name: 'Learning rate', value: formatRate(last.learning_rate), note: `at most ${formatRate(optionsOf(run)?.learning_rate ?? 5e-4)}`, hint: 'Of the latest step: it rises in the warm-up, then falls along half a cosine.' },
      { name: 'Tokens per second', value: formatNumber(last.tokens_per_second), note: plan ? `${formatDuration(plan.tokens_per_step / last.tokens_per_second)} a step` : '', hint: 'Tokens trained on; validations do not count.' },
      memoryTile(last.memory, run.estimate?.memory_available),
    );
  }
  return [...tiles, ...timeTile(run)];
}

function memoryTile(memory: Readonly<Record<string, number>>, available: number | undefined): Tile {
  const devices = Object.entries(memory);
  const most = Math.max(0, ...devices.map(([, bytes]) => bytes));
  const note = devices.length > 1 ? devices.map(([device, bytes]) => `${device} ${formatBytes(bytes)}`).join(', ') : `${devices[0]?.[0] ?? ''}${available === undefined ? '' : `; ${formatBytes(available)} were free`}`;
  return { name: 'Memory', value: formatBytes(most), note, hint: 'On a GPU the most that was in use so far; on a CPU what the process has now.' };
}

function timeTile({ state, status, result }: RunView): readonly Tile[] {
  const eta = status?.progress?.eta;
  if (state === 'running' && typeof eta === 'number') {
    return [{ name: 'Time left', value: formatDuration(eta), note: `ends about ${clock(eta)}`, hint: 'From the pace of the last half minute; checking and measuring the model come after that.' }];
  }
  return state === 'done' && result ? [{ name: 'Took', value: formatDuration(result.seconds), note: '', hint: 'The process that ended the run; what others did before a resume is not in it.' }] : [];
}

function clock(seconds: number): string {
  return new Date(Date.now() + 1000 * seconds).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' });
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
