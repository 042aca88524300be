/** A request that was made anew from an earlier one: what the questions do not ask stays as it was. */
import type { RunRequest } from '../protocol/types.ts';

/** Of these one answers for all: an earlier one must not stand beside a new one. */
const ALTERNATIVES: readonly (readonly string[])[] = [['minutes', 'tokens', 'epochs'], ['keep', 'chi'], ['quantize', 'budget']];
/** Of these only is asked whether, not how. */
const WHETHER: readonly string[] = ['evaluate', 'perplexity', 'prompts'];

/**
 * @param before the request of the earlier run.
 * @param now what the questions gave.
 */
export function withChanges<R extends RunRequest>(before: R, now: R): R {
  const old: Readonly<Record<string, unknown>> = { ...before.options };
  const own: Readonly<Record<string, unknown>> = { ...now.options };
  const replaced = new Set(ALTERNATIVES.filter(keys => keys.some(key => key in own)).flat());
  const kept = Object.entries(old).filter(([key]) => !replaced.has(key) && key !== 'predicted');
  const same = Object.entries(old).filter(([key, value]) => (WHETHER.includes(key) && isGiven(value) && isGiven(own[key])) || (key === 'calibration' && textOf(value) === textOf(own[key])));
  const options = { ...Object.fromEntries(kept), ...own, ...Object.fromEntries(same) };
  // The device is asked of a healing alone.
  return { ...now, seed: before.seed ?? 0, ...(before.device !== undefined && now.kind !== 'heal' ? { device: before.device } : {}), options };
}

function isGiven(value: unknown): boolean {
  return Array.isArray(value) ? value.length > 0 : typeof value === 'object' && value !== null;
}

/** Of a calibration; one that names none has the built-in text. */
function textOf(value: unknown): unknown {
  return typeof value === 'object' && value !== null && 'data' in value ? value.data : 'builtin';
}
