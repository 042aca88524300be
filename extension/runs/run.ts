/** A run as the views see it, and what they show of it: pure functions. */
import { t } from '../l10n/text.ts';
import type { ErrorInfo, Progress, RunRequest, RunResult, RunStatus } from '../protocol/types.ts';
import { EMPTY_SUMMARY, type RunSummary } from './fold.ts';
import { formatDuration, formatNumber } from './format.ts';

export type RunKind = RunRequest['kind'];
/** `invalid`: the folder holds files that cannot be read as a run; `problem` says why. */
export type RunState = RunStatus['state'] | 'invalid';

/** A snapshot; a run that changes becomes another object. */
export interface Run {
  /** Name of the folder. */
  readonly id: string;
  readonly directory: string;
  readonly state: RunState;
  readonly title: string;
  /** ISO 8601, UTC; empty when not known. */
  readonly created: string;
  readonly request?: RunRequest;
  readonly status?: RunStatus;
  readonly summary: RunSummary;
  readonly result?: RunResult;
  /** It was asked to end early with what it has. */
  readonly finishing?: true;
  /** What cannot be read, in words. In another state than `invalid` the rest of the run is still right. */
  readonly problem?: string;
}

/** A run of which only the status is known, for the functions that tell how far it is. */
export function runOf(status: RunStatus): Run {
  return { id: '', directory: '', title: '', created: '', state: status.state, status, summary: EMPTY_SUMMARY };
}

/** True while a process works on it or waits for its turn. */
export function isActive(state: RunState): boolean {
  return state === 'queued' || state === 'running' || state === 'cancelling';
}

export function canCancel(run: Run): boolean {
  return isActive(run.state) && run.state !== 'cancelling';
}

/** A healing that trains: what is best so far can be kept. */
export function canFinish(run: Run): boolean {
  return run.request?.kind === 'heal' && canCancel(run) && !run.finishing && (run.summary.heal?.steps.length ?? 0) > 0;
}

export function canResume(run: Run): boolean {
  return run.request !== undefined && (run.state === 'interrupted' || run.state === 'cancelled' || run.state === 'failed');
}

/** The compressed model's folder that a finished run has made, which has an original to be compared with. */
export function compressedBy({ result }: Pick<Run, 'result'>): string | undefined {
  return result?.kind === 'tensorize' || result?.kind === 'heal' || result?.kind === 'quantize' ? result.output : undefined;
}

/** The model's folder that a finished run has made. */
export function madeBy(run: Pick<Run, 'result'>): string | undefined {
  return run.result?.kind === 'sample-model' || run.result?.kind === 'export' ? run.result.output : compressedBy(run);
}

const STATE_WORDS = (): Record<RunState, string> => ({
  queued: t('Queued'),
  running: t('Running'),
  cancelling: t('Cancelling…'),
  cancelled: t('Cancelled'),
  failed: t('Failed'),
  interrupted: t('Interrupted'),
  done: t('Done'),
  invalid: t('Cannot be read'),
});

export function stateText(state: RunState): string {
  return STATE_WORDS()[state];
}

/** Fraction done of the current phase, in [0, 1]; undefined when it is not known. */
export function fractionDone(run: Run): number | undefined {
  const progress = run.status?.progress;
  return isActive(run.state) && progress && progress.total > 0 ? Math.min(1, Math.max(0, progress.done / progress.total)) : undefined;
}

/** One line for a view: how far it is, or the phase, or how it ended. */
export function progressText(run: Run): string {
  if (run.state === 'invalid') {
    return run.problem ?? stateText(run.state);
  }
  if (run.state === 'failed' || run.state === 'interrupted') {
    return errorOf(run)?.message ?? stateText(run.state);
  }
  if (run.state === 'done') {
    return run.result ? t('{0} in {1}', stateText(run.state), formatDuration(run.result.seconds)) : stateText(run.state);
  }
  if (run.state === 'queued') {
    return phaseOf(run) ?? t('Waiting for its turn');
  }
  return run.state === 'running' ? workingText(run) : stateText(run.state);
}

/** A phase is cut after this many characters: it names files too, and the row has more to say. */
const PHASE = 24;

/** The most important first, because a narrow view cuts it: `43% · 6 s left · Measuring · layer 12/30 · 3.1 layers/s`. */
function workingText(run: Run): string {
  const fraction = fractionDone(run);
  const progress = run.status?.progress;
  const whole = (phaseOf(run) ?? stateText(run.state)).replace(/\s+/g, ' ').trim();
  if (fraction === undefined || !progress) {
    return whole;
  }
  const phase = whole.length > PHASE ? `${whole.slice(0, PHASE - 1).trimEnd()}…` : whole;
  const percent = `${Math.floor(100 * fraction)}%`;
  return [percent, ...etaParts(progress), phase, ...countParts(progress)].join(' · ');
}

/** Why it failed or was interrupted; from the status, else from the journal. */
export function errorOf(run: Run): ErrorInfo | undefined {
  return run.status?.error ?? run.summary.error;
}

/** Active runs first, running before queued, then the newest first. */
export function compareRuns(a: Run, b: Run): number {
  return rank(a.state) - rank(b.state) || compareText(b.created || b.id, a.created || a.id) || compareText(b.id, a.id);
}

function phaseOf(run: Run): string | undefined {
  return run.status?.phase === '' ? undefined : run.status?.phase;
}

/** Position and rate; a position that is no small number says no more than the percentage. */
function countParts({ done, total, unit, rate }: Progress): string[] {
  const parts = Number.isInteger(total) && total < 100_000 ? [`${singular(unit)} ${Math.floor(done)}/${total}`] : [];
  if (typeof rate === 'number' && rate > 0) {
    parts.push(rate >= 0.1 ? `${formatNumber(rate)} ${plural(unit)}/s` : t('{0} per {1}', formatDuration(1 / rate), singular(unit)));
  }
  return parts;
}

/** In whole minutes where there are some: an estimate is no surer, and the row is narrow. */
function etaParts({ eta }: Progress): string[] {
  return typeof eta === 'number' && eta >= 0 ? [t('{0} left', formatDuration(eta < 90 ? eta : 60 * Math.round(eta / 60)))] : [];
}

/** What the engine counts, in the words of the editor's language; a unit that is new to this version as it is. */
const unitWords = (): Readonly<Partial<Record<string, readonly [one: string, many: string]>>> => ({
  blocks: [t('block'), t('blocks')],
  cells: [t('cell'), t('cells')],
  layers: [t('layer'), t('layers')],
  models: [t('model'), t('models')],
  requests: [t('request'), t('requests')],
  rounds: [t('round'), t('rounds')],
  sequences: [t('sequence'), t('sequences')],
  steps: [t('step'), t('steps')],
  tasks: [t('task'), t('tasks')],
  tokens: [t('token'), t('tokens')],
});

function singular(unit: string): string {
  return unitWords()[plainPlural(unit)]?.[0] ?? (unit.endsWith('s') ? unit.slice(0, -1) : unit);
}

function plural(unit: string): string {
  return unitWords()[plainPlural(unit)]?.[1] ?? plainPlural(unit);
}

function plainPlural(unit: string): string {
  return unit.endsWith('s') ? unit : `${unit}s`;
}

function rank(state: RunState): number {
  return state === 'running' || state === 'cancelling' ? 0 : state === 'queued' ? 1 : 2;
}

/** By code units: ids and ISO dates order by time. */
function compareText(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
