/** Errors of checkpoints, as something a view can show. */
import { SafetensorsError } from 'safetensors-ts';

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
  return { file: folder, message: `${folder} cannot be read: ${reason}`, remedy: 'Check that the folder is there and that you may read it.' };
}
