/** The Python files in a model folder: which there are, and whether they are still those that were looked at. */
import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { t } from '../l10n/text.ts';
import { isMissing, messageOf } from '../runs/files.ts';
import { CheckpointError } from './errors.ts';
import type { Model } from './types.ts';

/** The module that is copied into each compressed checkpoint; `modeling_mpo.py` in the engine. */
export const OWN_MODULE = 'modeling_mpo.py';
const OWN_MODEL_TYPE = 'bondwise_mpo';

/**
 * Paths from the folder, sorted; a file in a folder below can be imported too.
 * @throws CheckpointError when the folder cannot be read
 */
export async function pythonFiles(folder: string): Promise<readonly string[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true }).catch((error: unknown) => {
    throw new CheckpointError(folder, t('{0} cannot be read: {1}.', folder, messageOf(error)), t('Check that the folder is there and that you may read it.'));
  });
  const files = entries.filter(entry => entry.name.endsWith('.py') && !entry.isDirectory());
  return files.map(entry => path.relative(folder, path.join(entry.parentPath, entry.name))).sort();
}

/** SHA-256 in hex over each Python file's path, a zero byte, its length (8 bytes), and its bytes. */
export async function codeHash(folder: string): Promise<string> {
  const digest = createHash('sha256');
  for (const file of await pythonFiles(folder)) {
    const bytes = await readFile(path.join(folder, file));
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(bytes.length));
    digest.update(file).update('\0').update(length).update(bytes);
  }
  return digest.digest('hex');
}

/**
 * Whether a compressed model's `modeling_mpo.py` is another than this version's: changed, or of another version. Then the engine takes it for
 * the folder's own code.
 * @param engine the folder of the engine's package.
 */
export async function hasOtherModule({ folder, modelType }: Pick<Model, 'folder' | 'modelType'>, engine: string): Promise<boolean> {
  if (modelType !== OWN_MODEL_TYPE) {
    return false;
  }
  const [ours, theirs] = await Promise.all([engine, folder].map(place => read(path.join(place, OWN_MODULE))));
  return theirs === undefined || ours?.equals(theirs) !== true;
}

async function read(file: string): Promise<Buffer | undefined> {
  return readFile(file).catch((error: unknown) => {
    if (isMissing(error)) {
      return undefined;
    }
    throw error;
  });
}
