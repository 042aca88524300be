/** The pages of extension/docs: commands and settings from the manifest, file formats from the engine's schema. */
import { ScriptError } from './terminal.ts';

type Words = Readonly<Record<string, string>>;

interface Setting {
  readonly order: number;
  readonly type: string | readonly string[];
  readonly default: unknown;
  readonly scope: string;
  readonly markdownDescription?: string;
  readonly description?: string;
  readonly enum?: readonly string[];
}

export interface Manifest {
  readonly capabilities: { readonly untrustedWorkspaces: { readonly restrictedConfigurations: readonly string[] } };
  readonly contributes: {
    readonly commands: readonly { readonly command: string; readonly title: string; readonly enablement?: string }[];
    readonly menus: Readonly<Record<string, readonly { readonly command?: string; readonly when?: string }[]>>;
    readonly configuration: { readonly properties: Readonly<Record<string, Setting>> };
  };
}

interface Definition {
  readonly type?: string;
  readonly description?: string;
  readonly properties?: Readonly<Record<string, Definition>>;
  readonly required?: readonly string[];
  readonly items?: Definition;
  readonly prefixItems?: readonly Definition[];
  readonly anyOf?: readonly Definition[];
  readonly oneOf?: readonly Definition[];
  readonly additionalProperties?: boolean | Definition;
  readonly enum?: readonly unknown[];
  readonly const?: unknown;
  readonly default?: unknown;
  readonly $ref?: string;
}

const MADE = '<!-- Made by `npm run generate`. Edit what it is made from. -->';

const PLACES: Readonly<Record<string, string>> = {
  'explorer/context': 'menu of the Explorer',
  'editor/title': 'title of the editor',
  'editor/title/context': 'menu of the editor’s tab',
};

/** @param about a sentence or two for each command. @throws where one lacks them, or they are of a command that is no more. */
export function commandsPage({ contributes: { commands, menus } }: Manifest, words: Words, about: Words): string {
  const known = commands.map(({ command }) => command);
  const wrong = [...known.filter(command => about[command] === undefined), ...Object.keys(about).filter(command => !known.includes(command))];
  if (wrong.length > 0) {
    throw new ScriptError(`extension/docs/commands.json must say what each command does, and of no other: ${wrong.join(', ')}`);
  }
  const rows = commands.map(({ command, title, enablement }) => {
    const trust = enablement?.includes('isWorkspaceTrusted') === true ? ' Needs a trusted workspace.' : '';
    return [`**${textOf(title, words)}**<br>\`${command}\``, `${about[command] ?? ''}${trust}`, placesOf(command, menus).join('; ')];
  });
  return [MADE, '# Commands', 'All are in the category *Bondwise* of the Command Palette, except those that need a row of a view.', table(['command', 'what it does', 'where'], rows), ''].join('\n\n');
}

function placesOf(command: string, menus: Manifest['contributes']['menus']): string[] {
  const entries = Object.entries(menus).flatMap(([menu, items]) => items.filter(item => item.command === command).map(({ when = '' }) => [menu, when] as const));
  const views = ([menu, when]: readonly [string, string]): string[] =>
    menu === 'view/title' || menu === 'view/item/context'
      ? [...when.matchAll(/view == bondwise\.(\w+)/g)].map(([, view = '']) => `${menu === 'view/title' ? 'title' : 'menu'} of *${view.charAt(0).toUpperCase()}${view.slice(1)}*`)
      : [];
  const palette = entries.some(([menu, when]) => menu === 'commandPalette' && when === 'false') ? [] : ['Command Palette'];
  return [...new Set([...palette, ...entries.flatMap(entry => (PLACES[entry[0]] === undefined ? views(entry) : [PLACES[entry[0]] ?? '']))])];
}

export function settingsPage({ capabilities, contributes }: Manifest, words: Words): string {
  const { restrictedConfigurations } = capabilities.untrustedWorkspaces;
  const rows = Object.entries(contributes.configuration.properties)
    .sort(([, a], [, b]) => a.order - b.order)
    .map(([name, setting]) => {
      const values = setting.enum ? setting.enum.map(value => `\`${value}\``).join(', ') : [setting.type].flat().join(' or ');
      const restricted = restrictedConfigurations.includes(name) ? '<br>not from an untrusted workspace' : '';
      return [`\`${name}\``, textOf(setting.markdownDescription ?? setting.description ?? '', words), values, `\`${JSON.stringify(setting.default)}\``, `${setting.scope}${restricted}`];
    });
  return [
    MADE,
    '# Settings',
    'In the order of the Settings editor. Scope: *resource* may differ by workspace folder, *machine-overridable* belongs to the machine that the extension runs on and may be overridden by a workspace.',
    table(['setting', 'what it is', 'values', 'default', 'scope'], rows),
    '',
  ].join('\n\n');
}

/** The files, each with the definition that it follows. */
const FILES: readonly (readonly [file: string, root: string, about: string])[] = [
  ['NAME.bondwise.json', 'PlanFile', 'A plan. JSON with comments; VS Code completes and checks it.'],
  ['NAME.sensitivity.json', 'Sensitivity', 'A profile: opens as a heatmap.'],
  ['NAME.benchmark.json', 'Benchmark', 'A benchmark: opens as a report.'],
  ['RUN/run.json', 'RunRequest', 'What a run was asked. Never changed after the start.'],
  ['RUN/status.json', 'RunStatus', 'The latest state of a run, replaced by rename.'],
  ['RUN/events.ndjson', 'RunEvent', 'The journal of a run: one JSON object a line, append only, `seq` without gaps.'],
  ['RUN/result.json', 'RunResult', 'The figures of a run that is done.'],
  ['MODEL/bondwise.json', 'Lineage', 'In a model folder that Bondwise made: where it comes from and what was measured.'],
  ['MODEL/config.json, section mpo', 'MPOSection', 'In a compressed model folder: the modes and bond dimensions of every tensorized layer.'],
];

export function filesPage(definitions: Readonly<Record<string, Definition>>): string {
  const reached = new Set<string>();
  const sections = FILES.map(([file, root, about]) => {
    const own = namesBelow(root, definitions).filter(name => !reached.has(name));
    own.forEach(name => reached.add(name));
    return [`## ${file}`, about, reached.has(root) && own[0] !== root ? `See [${root}](#${root.toLowerCase()}).` : '', ...own.map(name => section(name, definitions[name] ?? {}))].filter(Boolean).join('\n\n');
  });
  const contents = FILES.map(([file, , about]) => `- [${file}](#${anchor(file)}): ${about}`).join('\n');
  const intro = 'Every file is UTF-8 JSON with a `version`; one of a newer version is refused with a message. Sizes are bytes, times seconds and ISO 8601 in UTC. The same definitions as JSON Schema: [schema.json](../protocol/schema.json).';
  return [MADE, '# Files', intro, contents, ...sections, ''].join('\n\n');
}

/** The definition and those that it uses, in the order of their first use. */
function namesBelow(root: string, definitions: Readonly<Record<string, Definition>>): string[] {
  const found = new Set<string>();
  const visit = (name: string): void => {
    if (!found.has(name)) {
      found.add(name);
      [...JSON.stringify(definitions[name] ?? {}).matchAll(/"\$ref":"#\/\$defs\/(\w+)"/g)].forEach(([, used = '']) => visit(used));
    }
  };
  visit(root);
  return [...found];
}

function section(name: string, { description, properties, required = [], oneOf }: Definition): string {
  const variants = oneOf ? `One of ${oneOf.map(typeText).join(', ')}.` : '';
  const rows = Object.entries(properties ?? {}).map(([key, value]) => [`\`${key}\``, typeText(value), required.includes(key) ? 'required' : defaultText(value), describe(value)]);
  return [`### ${name}`, description?.replace(/\s+/g, ' ') ?? '', variants, rows.length > 0 ? table(['key', 'type', 'default', 'what it is'], rows) : ''].filter(Boolean).join('\n\n');
}

function describe({ description, anyOf }: Definition): string {
  return (description ?? anyOf?.map(each => each.description).find(text => text !== undefined) ?? '').replace(/\s+/g, ' ');
}

function defaultText({ default: value }: Definition): string {
  return value === undefined || value === null ? '–' : `\`${JSON.stringify(value)}\``;
}

function typeText({ $ref, type, items, prefixItems, anyOf, oneOf, enum: values, const: constant, additionalProperties }: Definition): string {
  const variants = anyOf ?? oneOf;
  if ($ref !== undefined) {
    const name = $ref.split('/').at(-1) ?? '';
    return `[${name}](#${name.toLowerCase()})`;
  }
  if (variants) {
    return [...new Set(variants.filter(each => each.type !== 'null').map(typeText))].join(' or ');
  }
  if (constant !== undefined || values) {
    return (values ?? [constant]).map(value => `\`${JSON.stringify(value)}\``).join(', ');
  }
  if (type === 'array') {
    return items ? `list of ${typeText(items)}` : prefixItems ? `list of ${prefixItems.length}` : 'list';
  }
  return type === 'object' && typeof additionalProperties === 'object' ? `name → ${typeText(additionalProperties)}` : (type ?? 'any');
}

function anchor(heading: string): string {
  return heading.toLowerCase().replace(/[^\w -]/g, '').replaceAll(' ', '-');
}

function textOf(text: string, words: Words): string {
  return text.replace(/^%(.+)%$/, (_, key: string) => words[key] ?? key);
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.map(cell => cell.replaceAll('|', '\\|').replaceAll('\n', ' ')).join(' | ')} |`;
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n');
}
