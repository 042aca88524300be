/** Which runs made what a run works on, and which work on what it made. */
import { requestPath } from './requestFacts.ts';
import { madeBy, type Run } from './run.ts';

/** The folders of models that a run was asked about. */
export function modelsOf({ directory, request }: Pick<Run, 'directory' | 'request'>): readonly string[] {
  const named = request?.kind === 'benchmark' ? request.options.models : request && 'model' in request ? [request.model] : [];
  return named.map(model => requestPath(directory, model));
}

/** The last run before this one that made one of its models, if that run is still kept. */
export function madeFrom(run: Run, all: readonly Run[]): readonly Run[] {
  return modelsOf(run).flatMap(folder => {
    const makers = all.filter(other => other !== run && madeBy(other) === folder && other.created <= run.created);
    return makers.reduce<readonly Run[]>(([last], next) => [last && last.created > next.created ? last : next], []);
  });
}

/** Runs that were asked about the model that this one made, until another run made it anew. */
export function madeInto(run: Run, all: readonly Run[]): readonly Run[] {
  return madeBy(run) === undefined ? [] : all.filter(other => other !== run && madeFrom(other, all).includes(run));
}
