/** Errors of checkpoints, as something a view can show. */
import path from 'node:path';
import { SafetensorsError } from 'safetensors-ts';
import { t } from '../l10n/text.ts';

export class CheckpointError extends Error {
  /** The file or folder it is about. */
  readonly file: string;
  readonly remedy: string;

  constructor(file: string, message: string, remedy: string) {
    super(message);
    this.name = 'CheckpointError';
    this.file = file;
    this.remedy = remedy;
  }
}

export interface CheckpointProblem {
  readonly file: string;
  readonly message: string;
  readonly remedy: string;
}

/** Any failure of `openModel` as file, message and remedy. */
export function problemOf(error: unknown, folder: string): CheckpointProblem {
  if (error instanceof CheckpointError || error instanceof SafetensorsError) {
    return { file: error.file, message: error.message, remedy: error.remedy };
  }
  const reason = error instanceof Error ? error.message : String(error);
  return { file: folder, message: t('{0} cannot be read: {1}', folder, reason), remedy: t('Check that the folder is there and that you may read it.') };
}

/** What is wrong with the model in `folder`, for a row that names the folder and is cut by a narrow view: `is truncated: … (model.safetensors)`. */
export function reasonOf({ file, message }: Pick<CheckpointProblem, 'file' | 'message'>, folder: string): string {
  const after = (place: string): string | undefined => (message.startsWith(place) ? message.slice(place.length).replace(/^[\s:]+|\.$/g, '') : undefined);
  const ofFile = file === folder ? undefined : after(file);
  return ofFile === undefined ? (after(folder) ?? message) : `${ofFile} (${path.basename(file)})`;
}
