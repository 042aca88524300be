/** What the sources and the manifest say to a person, and what a translation of it lacks. */
import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import ts from 'typescript';
import { projectRoot } from './project.ts';

export interface Message {
  readonly text: string;
  /** `extension/views/text.ts:12` */
  readonly place: string;
}

type Words = Readonly<Record<string, string>>;

/** Folders of the sources that speak to a person; the scripts and safetensors-ts, a package of its own, speak English only. */
const SOURCES = ['extension', 'webview'] as const;
const ENGLISH_ONLY = /^extension\/(scripts|safetensors-ts|protocol)\//;

/** Every message of a call of `vscode.l10n.t` or `t`, in the order of the files. */
export async function sourceMessages(): Promise<Message[]> {
  const lists = await Promise.all(SOURCES.map(async folder => (await readdir(path.join(projectRoot, folder), { recursive: true })).map(file => `${folder}/${file.split(path.sep).join('/')}`)));
  const files = lists.flat().filter(file => file.endsWith('.ts') && !file.includes('/node_modules/') && !ENGLISH_ONLY.test(file));
  const found = await Promise.all(files.sort().map(async file => messagesOf(file, await readFile(path.join(projectRoot, file), 'utf8'))));
  return found.flat();
}

/** @throws where a message is not a literal, or has other places than values: it could not be translated. */
export function messagesOf(file: string, source: string): Message[] {
  const parsed = ts.createSourceFile(file, source, ts.ScriptTarget.Latest, true);
  const found: Message[] = [];
  const visit = (node: ts.Node): void => {
    if (ts.isCallExpression(node) && isTranslation(node.expression)) {
      const place = `${file}:${parsed.getLineAndCharacterOfPosition(node.getStart()).line + 1}`;
      const [first, ...values] = node.arguments;
      const texts = first ? literals(first) : [];
      if (texts.length === 0) {
        throw new Error(`${place}: the message is not a literal, so that no translation can be found for it.`);
      }
      for (const text of texts) {
        const last = Math.max(-1, ...[...placesOf(text)].map(Number));
        if (!values.some(ts.isSpreadElement) && last >= values.length) {
          throw new Error(`${place}: “${text}” has the place {${last}}, and ${values.length} values.`);
        }
        found.push({ text, place });
      }
    }
    ts.forEachChild(node, visit);
  };
  visit(parsed);
  return found;
}

function isTranslation(callee: ts.Expression): boolean {
  return ['t', 'l10n.t', 'vscode.l10n.t'].includes(callee.getText());
}

/** What the expression can be, where that is known from the text alone. */
function literals(node: ts.Expression): string[] {
  if (ts.isStringLiteralLike(node)) {
    return [node.text];
  }
  if (ts.isParenthesizedExpression(node)) {
    return literals(node.expression);
  }
  if (ts.isConditionalExpression(node)) {
    const [yes, no] = [literals(node.whenTrue), literals(node.whenFalse)];
    return yes.length === 0 || no.length === 0 ? [] : [...yes, ...no];
  }
  if (ts.isBinaryExpression(node) && node.operatorToken.kind === ts.SyntaxKind.PlusToken) {
    const [left, right] = [literals(node.left), literals(node.right)];
    return left.length === 1 && right.length === 1 ? [`${left[0] ?? ''}${right[0] ?? ''}`] : [];
  }
  return [];
}

function placesOf(text: string): Set<string> {
  return new Set(Array.from(text.matchAll(/\{(\d+)\}/g), ([, place = '']) => place));
}

/** What a translation must have as the original has it: places of values, commands behind links, icons. */
function fixedParts(text: string): string {
  return [...new Set(Array.from(text.matchAll(/\{\d+\}|\]\([^)]*\)|\$\([\w~-]+\)/g), ([part]) => part))].sort().join(' ');
}

/** One line for everything that is wrong with a translation; none, where it is whole. */
export function translationProblems(name: string, originals: ReadonlyMap<string, { readonly text: string; readonly place: string }>, translated: Words): string[] {
  const problems: string[] = [];
  for (const [key, { text, place }] of originals) {
    const words = translated[key];
    if (words === undefined || words === '') {
      problems.push(`${name} lacks ${JSON.stringify(key)} (${place})`);
    } else if (fixedParts(words) !== fixedParts(text)) {
      problems.push(`${name} has other placeholders, links or icons in ${JSON.stringify(key)}: ${JSON.stringify(words)}`);
    }
  }
  return [...problems, ...Object.keys(translated).filter(key => !originals.has(key)).map(key => `${name} translates ${JSON.stringify(key)}, which nothing says any more`)];
}

/** What German lacks, in the sources and in the manifest. */
export async function germanProblems(): Promise<string[]> {
  const read = async (file: string): Promise<Words> => JSON.parse(await readFile(path.join(projectRoot, file), 'utf8')) as Words;
  const messages = await sourceMessages();
  const manifest = Object.entries(await read('package.nls.json'));
  return [
    ...translationProblems('extension/l10n/bundle.l10n.de.json', new Map(messages.toReversed().map(message => [message.text, message])), await read('extension/l10n/bundle.l10n.de.json')),
    ...translationProblems('package.nls.de.json', new Map(manifest.map(([key, text]) => [key, { text, place: 'package.nls.json' }])), await read('package.nls.de.json')),
  ];
}
