/** Whose code a run asks for. */
import path from 'node:path';
import type { Run } from './run.ts';

/** The model folders whose own Python code a run asks to have run. */
export function codeFolders({ directory, request }: Pick<Run, 'directory' | 'request'>): readonly string[] {
  if (!request?.allow_code) {
    return [];
  }
  const reference = request.kind === 'perplexity' ? request.options.reference : request.kind === 'heal' ? request.options.teacher : undefined;
  const several = request.kind === 'benchmark' ? [...request.options.models, request.options.original] : [];
  return [...several, 'model' in request ? request.model : undefined, reference].flatMap(folder => (typeof folder === 'string' ? path.resolve(directory, folder) : []));
}
