/** Filling a plan that is there with what the planner found: comments, order and all that it does not fill stay as they are. */
import { applyEdits, createScanner, findNodeAtLocation, getNodeValue, modify, type Node } from 'jsonc-parser';
import { t } from '../l10n/text.ts';
import type { PlanFile, TensorizeRule } from '../protocol/types.ts';
import { jsonTree } from '../runs/files.ts';

/** What the planner fills. */
export type Filling = Pick<PlanFile, 'budget' | 'predicted' | 'calibration'> & { readonly tensorize: readonly TensorizeRule[] };

/** Of jsonc-parser's `SyntaxKind`, by number: that enumeration exists for the compiler alone. */
const COMMA = 5;
const LINE_BREAK = 14;
const PASSED_OVER: ReadonlySet<number> = new Set([12, 13, 15]); // comments of both kinds, blanks
const INDENT = 2;

/**
 * The text of a plan with its rules, budget and prediction replaced.
 *
 * A rule of exactly one layer that is planned again is kept and only its size changed; other rules go, since their layers are planned now.
 * @param text a plan that `Plan` reads.
 */
export function fillPlan(text: string, { budget, predicted, calibration, tensorize }: Filling): string {
  let filled = addRules(keepRules(text, tensorize), tensorize);
  for (const [name, section] of [['predicted', predicted], ['budget', budget]] as const) {
    filled = section ? fillSection(filled, name, section) : applyEdits(filled, modify(filled, [name], undefined, {}));
  }
  // A text that the user has chosen stays.
  return calibration && !findNodeAtLocation(rootOf(filled), ['calibration']) ? fillSection(filled, 'calibration', calibration) : filled;
}

/** Without the rules that are not wanted any more or stand in another order; the others with their new sizes. */
function keepRules(text: string, wanted: readonly TensorizeRule[]): string {
  const places = new Map(wanted.map((rule, i) => [nameOf(rule), i]));
  const rules = rulesOf(text);
  let kept = text;
  let next = Infinity;
  // From the end, so that the places of those before stay.
  for (let i = rules.length - 1; i >= 0; i--) {
    const node = rules[i];
    if (!node) {
      continue;
    }
    const place = places.get(nameOf(getNodeValue(node) as TensorizeRule));
    const rule = place !== undefined && place < next ? wanted[place] : undefined;
    if (rule && place !== undefined) {
      next = place;
      kept = changeRule(kept, node, rule);
    } else {
      kept = removeRule(kept, node, rules[i - 1]);
    }
  }
  return kept;
}

/** Another χ alone changes one number; a rule that says anything else is written anew. */
function changeRule(text: string, node: Node, rule: TensorizeRule): string {
  const there = getNodeValue(node) as TensorizeRule;
  const chi = findNodeAtLocation(node, ['chi']);
  const simple = chi && Object.keys(there).every(key => ['layers', 'chi', 'sites', 'method'].includes(key));
  const same = (there.sites ?? 'low-rank') === (rule.sites ?? 'low-rank') && (there.method ?? 'plain') === (rule.method ?? 'plain');
  if (!simple || !same) {
    return replace(text, node, lineOf(rule));
  }
  return there.chi === rule.chi ? text : replace(text, chi, String(rule.chi));
}

/** Takes a rule and its comma away, and the line if nothing else is on it; a comment beside it stays. */
function removeRule(text: string, rule: Node, before: Node | undefined): string {
  const comma = commaAfter(text, end(rule));
  const stale = comma === undefined && before ? commaAfter(text, end(before)) : undefined;
  const without = applyEdits(text, [
    ...(stale === undefined ? [] : [{ offset: stale, length: 1, content: '' }]),
    { offset: rule.offset, length: (comma === undefined ? end(rule) : comma + 1) - rule.offset, content: '' },
  ]);
  const at = rule.offset - (stale === undefined ? 0 : 1);
  const start = without.lastIndexOf('\n', at - 1) + 1;
  const stop = without.indexOf('\n', at);
  const isBlank = start > 0 && stop >= 0 && without.slice(start, stop).trim() === '';
  return isBlank ? without.slice(0, start) + without.slice(stop + 1) : without;
}

/** With what is missing, each on a line of its own behind the rule before it. */
function addRules(text: string, wanted: readonly TensorizeRule[]): string {
  const array = findNodeAtLocation(rootOf(text), ['tensorize']);
  const rules = array?.children ?? [];
  const there = rules.map(node => nameOf(getNodeValue(node) as TensorizeRule));
  const places = new Map(there.map((name, i) => [name, i]));
  let added = text;
  let missing: string[] = [];
  for (const rule of wanted.toReversed()) {
    const place = places.get(nameOf(rule));
    if (place === undefined) {
      missing.unshift(lineOf(rule));
    } else {
      added = insertAfter(added, rules[place], missing, place === rules.length - 1);
      missing = [];
    }
  }
  const [first] = rules;
  if (missing.length === 0 || !array) {
    return added;
  }
  const column = columnOf(text, array.parent?.offset ?? array.offset);
  const indent = '\n'.padEnd(1 + (first && isFirstOnLine(text, first.offset) ? columnOf(text, first.offset) : column + INDENT));
  const rest = first ? ',' : text.slice(array.offset + 1).trimStart().startsWith(']') ? '\n'.padEnd(1 + column) : '';
  return applyEdits(added, [{ offset: array.offset + 1, length: 0, content: indent + missing.join(`,${indent}`) + rest }]);
}

/** Sets the values of a section; one that is missing comes behind the plan's output. */
function fillSection(text: string, name: string, values: object): string {
  const root = rootOf(text);
  if (!findNodeAtLocation(root, [name])) {
    const output = findNodeAtLocation(root, ['output'])?.parent;
    const indent = output && isFirstOnLine(text, output.offset) ? columnOf(text, output.offset) : INDENT;
    const content = `${JSON.stringify(name)}: ${JSON.stringify(values, null, INDENT).replaceAll('\n', '\n'.padEnd(1 + indent))}`;
    return insertAfter(text, output, [content], output === root.children?.at(-1));
  }
  let filled = text;
  for (const [key, value] of Object.entries(values) as [string, unknown][]) {
    const node = findNodeAtLocation(rootOf(filled), [name, key]);
    if (!node) {
      filled = applyEdits(filled, modify(filled, [name, key], value, {}));
    } else if (JSON.stringify(getNodeValue(node)) !== JSON.stringify(value)) {
      filled = replace(filled, node, spaced(value));
    }
  }
  return filled;
}

/** Lines behind a value of an object or array, and behind a comment that stands beside it. */
function insertAfter(text: string, before: Node | undefined, lines: readonly string[], isLast: boolean): string {
  if (!before || lines.length === 0) {
    return text;
  }
  const comma = commaAfter(text, end(before));
  const indent = '\n'.padEnd(1 + (isFirstOnLine(text, before.offset) ? columnOf(text, before.offset) : INDENT));
  const content = indent + lines.join(`,${indent}`) + (isLast && comma === undefined ? '' : ',');
  return applyEdits(text, [
    ...(comma === undefined ? [{ offset: end(before), length: 0, content: ',' }] : []),
    { offset: restOfLine(text, comma === undefined ? end(before) : comma + 1), length: 0, content },
  ]);
}

// --- text --------------------------------------------------------------------------------------------------------------------------------

/** As the engine writes a rule. */
function lineOf({ layers, chi, keep, error, sites, ...rest }: TensorizeRule): string {
  const fields = Object.entries({ layers, ...rest, chi, keep, error, sites });
  return `{ ${fields.flatMap(([key, value]) => (value === undefined || value === null ? [] : [`${JSON.stringify(key)}: ${spaced(value)}`])).join(', ')} }`;
}

function spaced(value: unknown): string {
  return Array.isArray(value) ? `[${value.map(each => JSON.stringify(each)).join(', ')}]` : JSON.stringify(value);
}

function nameOf({ layers }: TensorizeRule): string {
  return layers.join('\n');
}

function replace(text: string, { offset, length }: Node, content: string): string {
  return applyEdits(text, [{ offset, length, content }]);
}

function rootOf(text: string): Node {
  const root = jsonTree(text);
  if (!root) {
    throw new Error(t('an empty text is not a plan'));
  }
  return root;
}

function rulesOf(text: string): readonly Node[] {
  return findNodeAtLocation(rootOf(text), ['tensorize'])?.children ?? [];
}

function end(node: Node): number {
  return node.offset + node.length;
}

/** Where the comma after a value is, if the next thing there that is no comment is one. */
function commaAfter(text: string, offset: number): number | undefined {
  const scanner = createScanner(text, true);
  scanner.setPosition(offset);
  return (scanner.scan() as number) === COMMA ? scanner.getTokenOffset() : undefined;
}

/** The end of the line, if only blanks and comments stand before it; else the place itself. */
function restOfLine(text: string, offset: number): number {
  const scanner = createScanner(text, false);
  scanner.setPosition(offset);
  for (;;) {
    const token: number = scanner.scan();
    if (token === LINE_BREAK) {
      return scanner.getTokenOffset();
    }
    if (!PASSED_OVER.has(token)) {
      return offset;
    }
  }
}

function columnOf(text: string, offset: number): number {
  return offset - (text.lastIndexOf('\n', offset - 1) + 1);
}

function isFirstOnLine(text: string, offset: number): boolean {
  return text.slice(offset - columnOf(text, offset), offset).trim() === '';
}
