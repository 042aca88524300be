/** What a run was asked, as rows of text: for its row in the Runs view and for comparing two runs. */
import path from 'node:path';
import type { RunRequest } from '../protocol/types.ts';

export type Fact = readonly [key: string, value: string];

/** Keys as in `run.json` (`options.tensorize.0.keep` without `options.`); what was left at null or empty is not told. */
export function requestFacts(request: RunRequest): readonly Fact[] {
  const { kind, options } = request;
  const common = Object.entries(request).filter(([key]) => !['version', 'created', 'title', 'kind', 'model', 'options'].includes(key));
  return [['kind', kind], ...('model' in request ? facts('model', request.model) : []), ...facts('', options), ...facts('', Object.fromEntries(common))];
}

/** A path in a request is absolute or starts at the run's directory. */
export function requestPath(directory: string, named: string): string {
  return path.resolve(directory, named);
}

function facts(key: string, value: unknown): readonly Fact[] {
  if (value === null || value === undefined || value === '' || (Array.isArray(value) && value.length === 0)) {
    return [];
  }
  if (Array.isArray(value) && value.every(item => typeof item !== 'object')) {
    return [[key, value.join(', ')]];
  }
  if (typeof value === 'object') {
    return Object.entries(value).flatMap(([name, inner]) => facts(key === '' ? name : `${key}.${name}`, inner));
  }
  return [[key, typeof value === 'string' ? value : JSON.stringify(value)]];
}
