/** What config.json says, as far as it concerns the tree. It may say anything: every field is checked before it is believed. */
import { readFile, stat } from 'node:fs/promises';
import path from 'node:path';
import { t } from '../l10n/text.ts';
import type { Lineage, MPOSection } from '../protocol/types.ts';
import { isLineage, isMPOSection } from '../protocol/validate.js';
import { CheckpointError } from './errors.ts';

/** Bytes; real ones have a few thousand, compressed models some hundred thousand. */
const MAX_CONFIG_BYTES = 8_000_000;
const OWN_MODEL_TYPE = 'bondwise_mpo';
const OWN_MODULE = 'modeling_mpo';

export interface Config {
  readonly architecture: string | null;
  readonly modelType: string | null;
  readonly needsCode: boolean;
  readonly mpo: MPOSection | undefined;
  /** Bits of a packed quantized weight; 4 where the file does not say. */
  readonly bits: number;
}

type Fields = Readonly<Record<string, unknown>>;

/**
 * The config of a model folder; undefined where it has none.
 * @throws CheckpointError when it is not a JSON object or its `mpo` section does not hold
 */
export async function readConfig(folder: string): Promise<Config | undefined> {
  const file = path.join(folder, 'config.json');
  const value = await readJson(file);
  return value === undefined ? undefined : parseConfig(value, file);
}

/** The pure part of `readConfig`. */
export function parseConfig(value: unknown, file: string): Config {
  if (!isFields(value)) throw new CheckpointError(file, t('{0} is not a JSON object.', file), t('Get config.json again from where the model came from.'));
  const mpo = value.mpo ?? undefined;
  if (mpo !== undefined && !isMPOSection(mpo)) {
    const [first] = isMPOSection.errors ?? [];
    const where = first ? ` (mpo${first.instancePath} ${first.message ?? ''})` : '';
    if (isFields(mpo) && mpo.version === 1) {
      throw new CheckpointError(file, t('{0} was written by an earlier version of Bondwise, which stored cores in another form.', file), t('Compress the model again from the original.'));
    }
    throw new CheckpointError(file, t('{0}: the section mpo is not one that this version reads{1}.', file, where), t('Update Bondwise, or compress the model again.'));
  }
  const modelType = text(value.model_type);
  return {
    architecture: mpo?.base_architecture ?? text(Array.isArray(value.architectures) ? value.architectures[0] : undefined),
    modelType,
    needsCode: namesForeignCode(value.auto_map, modelType) || (mpo?.base_auto_map ?? null) !== null,
    mpo,
    bits: bitsOf(value.quantization_config),
  };
}

/** `bondwise.json` of a compressed model; undefined where there is none or it does not hold (the model can be read without). */
export async function readLineage(folder: string): Promise<Lineage | undefined> {
  try {
    const value = await readJson(path.join(folder, 'bondwise.json'));
    return isLineage(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

async function readJson(file: string): Promise<unknown> {
  let content: string;
  try {
    const found = await stat(file);
    if (!found.isFile()) throw new CheckpointError(file, t('{0} is not a regular file.', file), t('Put a regular file in its place.'));
    if (found.size > MAX_CONFIG_BYTES) {
      throw new CheckpointError(file, t('{0} has {1} bytes, more than the {2} that are read.', file, found.size, MAX_CONFIG_BYTES), t('Get the file again.'));
    }
    content = await readFile(file, 'utf8');
  } catch (error) {
    if (error instanceof CheckpointError) throw error;
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined;
    const reason = error instanceof Error ? error.message : String(error);
    throw new CheckpointError(file, t('{0} cannot be read: {1}.', file, reason), t('Check the permissions of the file.'));
  }
  try {
    return JSON.parse(content);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new CheckpointError(file, t('{0} is not JSON: {1}.', file, reason), t('Get the file again from where the model came from.'));
  }
}

/** `auto_map` tells transformers which Python to run; a compressed model of ours names its own `modeling_mpo.py`. */
function namesForeignCode(autoMap: unknown, modelType: string | null): boolean {
  if (!isFields(autoMap)) return false;
  const references = Object.values(autoMap).flat().filter((reference) => typeof reference === 'string');
  if (references.length === 0) return false;
  return modelType !== OWN_MODEL_TYPE || references.some((reference) => reference.split('.')[0] !== OWN_MODULE);
}

function bitsOf(quantization: unknown): number {
  const found = /"(?:bits|num_bits)":(\d+)/.exec(isFields(quantization) ? JSON.stringify(quantization) : '');
  const bits = Number(found?.[1]);
  return [2, 3, 4, 8].includes(bits) ? bits : 4;
}

function isFields(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function text(value: unknown): string | null {
  return typeof value === 'string' ? value : null;
}
