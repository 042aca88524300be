/**
 * Selectors → layers: an exact name, a glob, or `re:` and a regular expression for the whole name. The same as `select` in modelmap.py, where a
 * glob is what Python's `fnmatchcase` takes: `*` any characters (dots too), `?` one, `[…]` and `[!…]` sets with ranges.
 */
import type { Layer, Model } from '../checkpoint/index.ts';
import { t } from '../l10n/text.ts';

export class SelectorError extends Error {
  readonly pattern: string;
  readonly remedy: string;

  constructor(pattern: string, message: string, remedy: string) {
    super(message);
    this.name = 'SelectorError';
    this.pattern = pattern;
    this.remedy = remedy;
  }
}

/**
 * The layers that match one of `patterns` and none of `exclude`, in the model's order.
 * @throws SelectorError for a pattern, of either list, that matches nothing (naming the nearest layers) or cannot be read, and when nothing is left
 */
export function selectLayers(model: Pick<Model, 'blocks'>, patterns: readonly string[], exclude: readonly string[] = []): readonly Layer[] {
  const layers = model.blocks.flatMap((block) => block.layers);
  const wanted = matchedNames(layers, patterns);
  const unwanted = matchedNames(layers, exclude);
  const chosen = layers.filter((layer) => wanted.has(layer.name) && !unwanted.has(layer.name));
  if (chosen.length === 0 && wanted.size > 0) {
    const what = t('all {0} layers that match {1} are excluded by {2}', wanted.size, patterns.join(', '), exclude.join(', '));
    throw new SelectorError(exclude[0] ?? '', t('No layer is left: {0}.', what), t('Exclude fewer layers.'));
  }
  return chosen;
}

/** Whether one name matches. @throws SelectorError when the pattern is not a regular expression */
export function matcher(pattern: string): (name: string) => boolean {
  if (pattern.startsWith('re:')) {
    const expression = wholeName(pattern);
    return (name) => expression.test(name);
  }
  const steps = parseGlob(pattern);
  return (name) => name === pattern || matchesGlob(steps, Array.from(name));
}

function matchedNames(layers: readonly Layer[], patterns: readonly string[]): Set<string> {
  const names = new Set<string>();
  for (const pattern of patterns) {
    const exact = layers.some((layer) => layer.name === pattern);
    const matches = exact ? (name: string): boolean => name === pattern : matcher(pattern);
    let found = false;
    for (const { name } of layers) {
      if (!matches(name)) continue;
      names.add(name);
      found = true;
    }
    if (!found) throw nothingMatches(pattern, layers);
  }
  return names;
}

function nothingMatches(pattern: string, layers: readonly Layer[]): SelectorError {
  if (layers.length === 0) {
    return new SelectorError(pattern, t('The pattern “{0}” matches nothing: the model has no layers in blocks.', pattern), t('Use another model.'));
  }
  const near = nearest(pattern, layers.map((layer) => layer.name)).join(', ');
  return new SelectorError(pattern, t('The pattern “{0}” matches no layer. The nearest are {1}.', pattern, near), t('Names are like {0}.', near));
}

function wholeName(pattern: string): RegExp {
  const source = pattern.slice('re:'.length);
  try {
    new RegExp(source); // by itself first: within the anchors, `a)|(b` would pass
    return new RegExp(`^(?:${source})$`);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new SelectorError(pattern, t('The pattern “{0}” is not a regular expression: {1}.', pattern, reason), t('Mend it, or use a glob.'));
  }
}

// --- globs -----------------------------------------------------------------------------------------------------------------------------

/** One character of a name, or `*`. */
type Step = '*' | ((character: string) => boolean);

function parseGlob(pattern: string): readonly Step[] {
  const characters = Array.from(pattern);
  const steps: Step[] = [];
  for (let at = 0; at < characters.length; at++) {
    const character = characters[at] ?? '';
    const close = character === '[' ? closing(characters, at) : -1;
    if (character === '*') {
      if (steps.at(-1) !== '*') steps.push('*');
    } else if (character === '?') steps.push(() => true);
    else if (close !== -1) {
      steps.push(parseSet(characters.slice(at + 1, close)));
      at = close;
    } else steps.push((other) => other === character);
  }
  return steps;
}

/** Where the set that opens at `open` ends: a `]` that is not its first member; -1 where it does not, and `[` is a plain character. */
function closing(characters: readonly string[], open: number): number {
  const first = open + (characters[open + 1] === '!' ? 2 : 1);
  return characters.indexOf(']', first + 1);
}

function parseSet(members: readonly string[]): (character: string) => boolean {
  const negated = members[0] === '!';
  const ranges: { readonly from: number; readonly to: number }[] = [];
  for (let at = negated ? 1 : 0; at < members.length; at++) {
    const from = codePoint(members[at]);
    const isRange = members[at + 1] === '-' && at + 2 < members.length;
    ranges.push({ from, to: isRange ? codePoint(members[at + 2]) : from });
    if (isRange) at += 2;
  }
  return (character) => ranges.some(({ from, to }) => from <= codePoint(character) && codePoint(character) <= to) !== negated;
}

function codePoint(character: string | undefined): number {
  return character?.codePointAt(0) ?? -1;
}

/** Linear in practice: only the last `*` is ever tried again. */
function matchesGlob(steps: readonly Step[], name: readonly string[]): boolean {
  let step = 0;
  let at = 0;
  let star: { readonly step: number; at: number } | undefined;
  while (at < name.length) {
    const current = steps[step];
    if (current === '*') {
      star = { step, at };
      step++;
    } else if (current?.(name[at] ?? '')) {
      step++;
      at++;
    } else if (star) {
      step = star.step + 1;
      at = ++star.at;
    } else return false;
  }
  while (steps[step] === '*') step++;
  return step === steps.length;
}

// --- the nearest names ---------------------------------------------------------------------------------------------------------------

const SHOWN = 3;

/** Names like the pattern: blocks differ by number alone, so the distance is taken without numbers and the pattern's own are kept if they fit. */
function nearest(pattern: string, names: readonly string[]): string[] {
  const kinds = new Map<string, string[]>();
  for (const name of names) {
    const kind = name.replace(/\d+/g, '0');
    const own = kinds.get(kind);
    if (own) own.push(name);
    else kinds.set(kind, [name]);
  }
  const plain = pattern.replace(/^re:/, '').replace(/[*?[\]\\^$()|+]/g, '');
  const asked = plain.replace(/\d+/g, '0');
  const numbers = plain.match(/\d+/g) ?? [];
  const ranked = [...kinds].map(([kind, own]) => ({ own, distance: editDistance(asked, kind) }));
  return ranked
    .sort((a, b) => a.distance - b.distance)
    .slice(0, SHOWN)
    .map(({ own }) => own.find((name) => numbers.length > 0 && String(name.match(/\d+/g)) === String(numbers)) ?? own[0] ?? '');
}

/** Levenshtein's: insertions, deletions and replacements from one text to the other. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(replaced, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[b.length] ?? 0;
}
