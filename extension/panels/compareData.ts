/** From the lineage in a compressed checkpoint to what the compare panel shows. */
import path from 'node:path';
import { t } from '../l10n/text.ts';
import { isLineage } from '../protocol/validate.js';
import type { CompareData, Quantization } from '../protocol/types.ts';
import { readJson } from '../runs/files.ts';

export const LINEAGE_FILE = 'bondwise.json';

/**
 * Reads `bondwise.json` of a compressed checkpoint.
 * @throws with the folder and what to do, when the file is missing or cannot be used.
 */
export async function readCompareData(folder: string): Promise<CompareData> {
  const read = await readJson(path.join(folder, LINEAGE_FILE), isLineage);
  if (!read) {
    throw new Error(t('{0} holds no {1}: it was not made by Bondwise, or it was moved. Open the folder that Tensorize made.', folder, LINEAGE_FILE));
  }
  if ('problem' in read) {
    throw new Error(`${folder}: ${read.problem}`);
  }
  const { base, result, healing = [], quantization } = read.value;
  if (quantization) {
    return quantizedData(folder, quantization);
  }
  if (!result) {
    throw new Error(t('{0} says neither what was tensorized nor what was quantized. Make the model again.', path.join(folder, LINEAGE_FILE)));
  }
  const last = healing.at(-1)?.result;
  const sizes = { parameters: result.parameters, bytes: result.bytes };
  // What a healing has measured was measured on one text: its own.
  const { original, compressed } = last?.healed ? last : result;
  return {
    original: {
      name: base.name,
      path: path.resolve(folder, base.path),
      parameters: result.original_parameters,
      bytes: result.original_bytes,
      evaluation: original ?? null,
    },
    compressed: { name: path.basename(folder), path: folder, ...sizes, evaluation: compressed ?? null },
    healed: last ? { name: path.basename(folder), path: folder, ...sizes, evaluation: last.healed ?? null } : null,
    healing: last ?? null,
    predicted: result.predicted ?? null,
    layers: result.layers,
  };
}

/** A quantized model beside the folder that was quantized. */
function quantizedData(folder: string, { source, result }: Quantization): CompareData {
  return {
    original: {
      name: source.name,
      path: path.resolve(folder, source.path),
      parameters: result.parameters,
      bytes: result.original_bytes,
      evaluation: result.original ?? null,
    },
    compressed: { name: path.basename(folder), path: folder, parameters: result.parameters, bytes: result.bytes, evaluation: result.quantized ?? null },
    predicted: result.predicted ?? null,
    layers: [],
  };
}
