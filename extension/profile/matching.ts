/** Which profile belongs to which model, and to which run. */
import path from 'node:path';
import type { BaseModelRef, Sensitivity } from '../protocol/types.ts';
import { isActive, type Run } from '../runs/run.ts';
import { PROFILE_SUFFIX } from './read.ts';

/** The file that a run of kind profile writes; undefined for other runs. */
export function outputOf(run: Run): string | undefined {
  return run.request?.kind === 'profile' ? path.resolve(run.directory, run.request.options.output) : undefined;
}

/** The model folder that a run of kind profile reads. */
export function profiledModel(run: Run): string | undefined {
  return run.request?.kind === 'profile' ? path.resolve(run.directory, run.request.model) : undefined;
}

/** The run that stands for a profile: the one at work on it, else the last one. */
export function runFor(file: string, runs: readonly Run[]): Run | undefined {
  const own = runs.filter(run => outputOf(run) === file);
  return own.find(run => run.state === 'running' || run.state === 'cancelling') ?? own.find(run => isActive(run.state)) ?? own[0];
}

/** What there is of a profile: while a run fills it, what that has found; else the file; else what the last run found. */
export function latestOf(saved: Sensitivity | undefined, run: Run | undefined): Sensitivity | undefined {
  const found = run?.summary.profile;
  return run && isActive(run.state) && found ? found : (saved ?? found);
}

export interface Candidate {
  readonly folder: string;
  readonly fingerprint: string | undefined;
}

export interface Home {
  readonly folder: string;
  /** Whether the model is the one that was profiled; false when it has changed since. */
  readonly same: boolean;
}

/** The model of a profile: where it was if it is still the same, else wherever the same one is, else what is there now. */
export function homeOf(file: string, model: BaseModelRef, candidates: readonly Candidate[]): Home | undefined {
  const at = path.resolve(path.dirname(file), model.path);
  const same = candidates.filter(({ fingerprint }) => fingerprint === model.fingerprint);
  const found = same.find(({ folder }) => folder === at) ?? same[0];
  if (found) {
    return { folder: found.folder, same: true };
  }
  return candidates.some(({ folder }) => folder === at) ? { folder: at, same: false } : undefined;
}

/**
 * The file for a profile of a model: `NAME.sensitivity.json` in a folder, or with a number where that one cannot be added to.
 * @param isFree whether a profile may be written to a file: nothing is there, or a profile that it can be added to.
 */
export async function profileFile(folder: string, model: string, isFree: (file: string) => Promise<boolean>): Promise<string> {
  for (let number = 1; ; number++) {
    const file = path.join(folder, `${model}${number === 1 ? '' : `-${number}`}${PROFILE_SUFFIX}`);
    if (await isFree(file)) {
      return file;
    }
  }
}
