/** Which folders hold models, and what is wrong with those that do not. */
import { readdir, realpath } from 'node:fs/promises';
import path from 'node:path';
import { t } from '../l10n/text.ts';
import { CheckpointError } from './errors.ts';
import { readConfig } from './config.ts';

const PICKLE = /\.(?:bin|pt|pth|ckpt|pkl)$/;
const DEEPEST = 8;
const MOST_FOLDERS = 20_000;
/** Besides hidden folders, which also hold models that are still being written. */
const SKIPPED: ReadonlySet<string> = new Set(['node_modules', '__pycache__', 'site-packages']);
const convert = (): string =>
  t('Convert it once, where you trust it: python -c "from transformers import AutoModelForCausalLM as M; M.from_pretrained(\'OLD\', dtype=\'auto\').save_pretrained(\'NEW\')", then copy the tokenizer files. A .bin file is a pickle: opening it can run code, so Bondwise does not.');

export interface FolderKind {
  /** What its weights are in. */
  readonly weights: 'safetensors' | 'pickle' | 'gguf' | 'none';
  readonly config: boolean;
  /** config.json names Python code that is not ours. */
  readonly needsCode: boolean;
  /** Why it cannot be opened. */
  readonly error?: CheckpointError;
}

/** What a folder is, by its file names and config.json. Never throws for what is in it. */
export async function classifyFolder(folder: string): Promise<FolderKind> {
  let names: string[];
  try {
    names = (await readdir(folder)).sort();
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    const unreadable = new CheckpointError(folder, t('{0} cannot be read: {1}.', folder, reason), t('Check that it is a folder and that you may read it.'));
    return { weights: 'none', config: false, needsCode: false, error: unreadable };
  }
  const config = names.includes('config.json');
  const weights = weightsOf(names);
  if (weights !== 'safetensors') return { weights, config, needsCode: false, error: withoutWeights(folder, names) };
  if (names.includes('adapter_config.json')) return { weights, config, needsCode: false, error: adapter(folder) };
  try {
    return { weights, config, needsCode: (await readConfig(folder))?.needsCode ?? false };
  } catch (error) {
    return { weights, config, needsCode: false, ...(error instanceof CheckpointError && { error }) };
  }
}

/** @throws CheckpointError where the folder cannot be opened as a model */
export async function requireReadable(folder: string): Promise<void> {
  const { error } = await classifyFolder(folder);
  if (error) throw error;
}

/** Folders below `root` (and itself) that hold config.json and safetensors files, as they are found. Broken ones too: they can be told. */
export async function* findModels(root: string, signal?: AbortSignal): AsyncGenerator<string> {
  const seen = new Set<string>();
  const queue: { readonly folder: string; readonly depth: number }[] = [{ folder: path.resolve(root), depth: 0 }];
  for (let next = queue.shift(); next && seen.size < MOST_FOLDERS; next = queue.shift()) {
    signal?.throwIfAborted();
    const { folder, depth } = next;
    const found = await look(folder, seen);
    if (found?.model) yield folder;
    if (depth < DEEPEST) for (const name of found?.folders ?? []) queue.push({ folder: path.join(folder, name), depth: depth + 1 });
  }
}

/** What is in a folder that was not seen yet; links are followed, each real folder once. */
async function look(folder: string, seen: Set<string>): Promise<{ readonly model: boolean; readonly folders: readonly string[] } | undefined> {
  try {
    const real = await realpath(folder);
    if (seen.has(real)) return undefined;
    seen.add(real);
    const entries = await readdir(folder, { withFileTypes: true });
    const names = entries.map((entry) => entry.name);
    const folders = entries
      .filter((entry) => (entry.isDirectory() || entry.isSymbolicLink()) && !entry.name.startsWith('.') && !SKIPPED.has(entry.name))
      .map((entry) => entry.name)
      .sort();
    return { model: names.includes('config.json') && weightsOf(names) === 'safetensors', folders };
  } catch {
    return undefined; // not a folder after all, or not ours to read
  }
}

function weightsOf(names: readonly string[]): FolderKind['weights'] {
  if (names.some((name) => name.endsWith('.safetensors') || name.endsWith('.safetensors.index.json'))) return 'safetensors';
  if (names.some((name) => PICKLE.test(name))) return 'pickle';
  return names.some((name) => name.endsWith('.gguf')) ? 'gguf' : 'none';
}

function withoutWeights(folder: string, names: readonly string[]): CheckpointError {
  const pickle = names.find((name) => PICKLE.test(name));
  if (pickle !== undefined) return new CheckpointError(path.join(folder, pickle), t('{0} holds pickled weights ({1}) and no .safetensors file.', folder, pickle), convert());
  const gguf = names.find((name) => name.endsWith('.gguf'));
  if (gguf !== undefined) {
    return new CheckpointError(
      path.join(folder, gguf),
      t('{0} holds {1}, a GGUF file, and no .safetensors file.', folder, gguf),
      t('Get the model\'s Hugging Face folder, or convert it: AutoModelForCausalLM.from_pretrained(…, gguf_file=…).save_pretrained(…).'),
    );
  }
  return new CheckpointError(folder, t('{0} holds no .safetensors file.', folder), t('Choose the folder that holds config.json and the .safetensors files.'));
}

function adapter(folder: string): CheckpointError {
  return new CheckpointError(
    path.join(folder, 'adapter_config.json'),
    t('{0} holds an adapter (adapter_config.json), which changes the weights on loading.', folder),
    t('Merge it first: peft\'s merge_and_unload(), then save_pretrained() into a new folder.'),
  );
}
