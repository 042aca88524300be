/** Reading NAME.sensitivity.json. A file that was cut off or damaged gives what of it can be trusted, and says what is missing. */
import { stat, readFile } from 'node:fs/promises';
import path from 'node:path';
import { getNodeValue, type Node } from 'jsonc-parser';
import { t } from '../l10n/text.ts';
import type { Cell, Curve, ProfileLayer, Sensitivity } from '../protocol/types.ts';
import { isSensitivity } from '../protocol/validate.js';
import { isMissing, jsonTree, messageOf, parseJson } from '../runs/files.ts';

export const PROFILE_SUFFIX = '.sensitivity.json';

export type ProfileText = { readonly profile: Sensitivity; readonly notes: readonly string[] } | { readonly problem: string };

/** What lies behind a name, and when it was written; undefined where nothing does. */
export type ProfileFile = (ProfileText & { readonly stamp: string }) | undefined;

/** Reads a profile, unless it is still the one that was read `before`. */
export async function readProfile(file: string, before?: ProfileFile): Promise<ProfileFile> {
  try {
    const { ino, size, mtimeNs } = await stat(file, { bigint: true });
    const stamp = `${ino}:${size}:${mtimeNs}`;
    return before?.stamp === stamp ? before : { ...parseProfile(await readFile(file, 'utf8'), path.basename(file)), stamp };
  } catch (error) {
    return isMissing(error) ? undefined : { problem: t('{0} cannot be read: {1}', path.basename(file), messageOf(error)), stamp: '' };
  }
}

/** The pure part of `readProfile`. */
export function parseProfile(text: string, name: string): ProfileText {
  const whole = parseJson(text, name, isSensitivity);
  if ('value' in whole) {
    const { profile, dropped } = shown(whole.value);
    return { profile, notes: dropped === 0 ? [] : [t('{0}: {1} curves or cells belong to no layer of the profile, or their lists differ in length; they are left out.', name, dropped)] };
  }
  const saved = salvage(text);
  if (!saved) {
    return { problem: t('{0}. Nothing of it can be shown: profile the model again.', whole.problem) };
  }
  const { layers, curves = [], cells = [] } = saved;
  const counts = t('{0} layers, {1} curves, {2} measured cells', layers.length, curves.length, cells.length);
  return { profile: saved, notes: [t('{0}. It was cut off or damaged; what can be read is shown: {1}. Profile the model again to fill in the rest.', whole.problem, counts)] };
}

/** What of a broken file follows the schema; undefined where that is not even the head and one layer. */
function salvage(text: string): Sensitivity | undefined {
  const root = jsonTree(text);
  const end = text.trimEnd().length;
  // What reaches the end may be cut in the middle of a number: it is not taken, even where it looks right.
  const isWhole = (node: Node) => node.offset + node.length < end;
  const fields = new Map((root?.type === 'object' ? root.children : [])?.map(({ children: [key, value] = [] }) => [String(key?.value), value]));
  const list = (name: string): unknown[] => (fields.get(name)?.children ?? []).filter(isWhole).map(child => getNodeValue(child) as unknown);
  const plain = [...fields].flatMap(([name, value]) => (value && isWhole(value) ? [[name, getNodeValue(value) as unknown] as const] : []));
  const head: unknown = { ...Object.fromEntries(plain), layers: [], curves: [], cells: [], complete: false };
  if (!isSensitivity(head)) {
    return undefined;
  }
  const valid = <T>(elements: readonly unknown[], within: (element: unknown) => unknown, take: (profile: Sensitivity) => readonly T[]): T[] =>
    elements.flatMap(element => {
      const one = within(element);
      return isSensitivity(one) ? take(one) : [];
    });
  const layers = valid<ProfileLayer>(list('layers'), layer => ({ ...head, layers: [layer] }), one => one.layers);
  const curves = valid<Curve>(list('curves'), curve => ({ ...head, curves: [curve] }), one => one.curves ?? []);
  const cells = valid<Cell>(list('cells'), cell => ({ ...head, cells: [cell] }), one => one.cells ?? []);
  return layers.length === 0 ? undefined : shown({ ...head, layers, curves, cells }).profile;
}

/** Leaves out what no view could draw. */
function shown(profile: Sensitivity): { readonly profile: Sensitivity; readonly dropped: number } {
  const names = new Set(profile.layers.map(layer => layer.name));
  const { curves = [], cells = [] } = profile;
  const [goodCurves, goodCells] = [curves.filter(curve => names.has(curve.layer) && isEven(curve)), cells.filter(cell => names.has(cell.layer))];
  const dropped = curves.length - goodCurves.length + cells.length - goodCells.length;
  return { profile: dropped === 0 ? profile : { ...profile, curves: goodCurves, cells: goodCells }, dropped };
}

function isEven({ chi, parameters, error, plain, input, fisher }: Curve): boolean {
  return chi.length > 0 && [parameters, error, plain, input, fisher].every(list => list.length === chi.length);
}
