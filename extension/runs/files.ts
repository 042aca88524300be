/** Reading and replacing the JSON files of a run directory. Nothing read is trusted before it is validated. */
import { randomBytes } from 'node:crypto';
import { open, readFile, rename, rm } from 'node:fs/promises';
import path from 'node:path';
import { type Node, type ParseError, parseTree } from 'jsonc-parser';
import { t } from '../l10n/text.ts';
import type { Validator } from '../protocol/validate.js';

/** The newest format that this version reads; `SCHEMA_VERSION` in the engine's schema. */
const FORMAT = 1;

export type Read<T> = { readonly value: T; readonly text: string } | { readonly problem: string } | undefined;

/**
 * Reads and validates one JSON file.
 * @returns undefined when the file is not there; a problem in words when it cannot be used.
 */
export async function readJson<T>(file: string, isValid: Validator<T>): Promise<Read<T>> {
  let text: string;
  try {
    text = await readFile(file, 'utf8');
  } catch (error) {
    return isMissing(error) ? undefined : { problem: t('{0} cannot be read: {1}', path.basename(file), messageOf(error)) };
  }
  const parsed = parseJson(text, path.basename(file), isValid);
  return 'problem' in parsed ? parsed : { value: parsed.value, text };
}

/** Parses and validates; a problem names the file, the field and what is wrong with it. */
export function parseJson<T>(text: string, name: string, isValid: Validator<T>): { readonly value: T } | { readonly problem: string } {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    return { problem: t('{0} is not JSON: {1}', name, messageOf(error)) };
  }
  const version = typeof value === 'object' && value !== null && 'version' in value ? value.version : undefined;
  if (typeof version === 'number' && version > FORMAT) {
    return { problem: t('{0} was made by a newer Bondwise (format {1}; this one reads up to {2}). Update the extension.', name, version, FORMAT) };
  }
  return isValid(value) ? { value } : { problem: t('{0} is not valid: {1}', name, reasonOf(isValid)) };
}

/** The tree of a JSON text, with trailing commas and comments if need be; undefined where it is empty or nests deeper than the parser goes. */
export function jsonTree(text: string, errors: ParseError[] = []): Node | undefined {
  try {
    return parseTree(text, errors, { allowTrailingComma: true });
  } catch (error) {
    if (error instanceof RangeError) {
      return undefined;
    }
    throw error;
  }
}

/** What the validator's last call found wrong, as `options/output must be string`. */
export function reasonOf(validator: { readonly errors?: { instancePath: string; message?: string }[] | null }): string {
  const first = validator.errors?.[0];
  return first ? `${first.instancePath.slice(1)} ${first.message ?? t('is wrong')}`.trim() : t('it does not follow the schema');
}

/** Replaces a file so that a reader sees the old or the new content, never half of it, also after a power cut. */
export async function replaceFile(file: string, content: string | Uint8Array): Promise<void> {
  const temporary = path.join(path.dirname(file), `.${path.basename(file)}.${process.pid}.${randomBytes(4).toString('hex')}.tmp`);
  try {
    const handle = await open(temporary, 'wx');
    try {
      await handle.writeFile(content);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(temporary, file);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}

export async function replaceJson(file: string, value: unknown): Promise<void> {
  await replaceFile(file, `${JSON.stringify(value, null, 1)}\n`);
}

/** True for ENOENT and ENOTDIR: there is no such file. */
export function isMissing(error: unknown): boolean {
  return error instanceof Error && 'code' in error && (error.code === 'ENOENT' || error.code === 'ENOTDIR');
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
