/**
 * `npm run generate [-- --check]`: the engine's schema (engine/bondwise/schema/) → extension/protocol/{schema.json,types.ts,validate.js},
 * and plan.schema.json, by which VS Code itself checks and completes a plan file. The manifest gets the schemas of the tools' input;
 * extension/docs gets a page of commands, of settings and of files.
 * With --check nothing is written and the exit status says whether the files are up to date.
 */
import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { Ajv2020 } from 'ajv/dist/2020.js';
import standaloneCode from 'ajv/dist/standalone/index.js';
import { execa } from 'execa';
import { compile, type JSONSchema } from 'json-schema-to-typescript';
import { commandsPage, filesPage, type Manifest, settingsPage } from './docs.ts';
import { ensureEnvironment } from './environment.ts';
import { projectRoot } from './project.ts';

interface Schema {
  $schema: string;
  $defs: Record<string, JSONSchema & { title?: string }>;
}

const TOOL_INPUTS = ['ListModelsInput', 'ListLayersInput', 'ReadProfileInput', 'ProfileInput', 'PlanInput', 'RunPlanInput', 'TensorizeInput', 'HealInput', 'QuantizeInput', 'BenchmarkInput', 'RunStatusInput'];
const ROOTS = ['RunRequest', 'RunStatus', 'RunEvent', 'RunResult', 'MPOSection', 'Lineage', 'Sensitivity', 'Benchmark', 'PlanFile', 'PlanResult', 'Inspection', 'Doctor', 'TaskList', 'TensorFacts', 'TensorSpectrum', 'TensorDiffLine', 'ChatModel', 'ChatReply', 'ChatToken', 'ChatRequest', 'WebviewRequest', 'HostMessage', ...TOOL_INPUTS];
const HEADER = '// Made by `npm run generate` from engine/bondwise/schema/. Edit that file, not this one.\n';

/** json-schema-to-typescript makes a named type of each titled property; only definitions should have names. */
function dropTitles(node: unknown, isDefinition: boolean): unknown {
  if (Array.isArray(node)) {
    return node.map(item => dropTitles(item, false));
  }
  if (typeof node !== 'object' || node === null) {
    return node;
  }
  const entries = Object.entries(node).filter(([key, value]) => isDefinition || key !== 'title' || typeof value !== 'string');
  return Object.fromEntries(entries.map(([key, value]) => [key, dropTitles(value, false)]));
}

async function types(schema: Schema): Promise<string> {
  const definitions = Object.fromEntries(Object.entries(schema.$defs).map(([name, body]) => [name, { ...(dropTitles(body, false) as object), title: name }]));
  const everything = { title: 'Everything', type: 'object', properties: {}, additionalProperties: false, $defs: definitions } as JSONSchema;
  const text = await compile(everything, 'Everything', { bannerComment: '', unreachableDefinitions: true, additionalProperties: false, style: { singleQuote: true, printWidth: 140 } });
  const body = text.replace(/\/\*\*\n \* This interface was referenced by [\s\S]*?\*\/\n/g, '').replace(/\n \*\n \* This interface was referenced by[\s\S]*?via the `definition` "[^"]*"\./g, '').replace(/export interface Everything \{\}\n/, '');
  return HEADER + body;
}

function validators(schema: Schema): { js: string; dts: string } {
  const ajv = new Ajv2020({ code: { source: true, esm: true }, strict: false, discriminator: true, inlineRefs: false });
  // Ajv reads the tag from the variants themselves and refuses OpenAPI's `mapping`.
  const plain = JSON.parse(JSON.stringify(schema, (key, value: unknown) => (key === 'mapping' ? undefined : isTagged(value) ? { type: 'object', ...value } : value))) as Schema;
  ajv.addSchema(plain, 'bondwise');
  const js = standaloneCode.default(ajv, Object.fromEntries(ROOTS.map(name => [`is${name}`, `bondwise#/$defs/${name}`])));
  // The only helper that ajv takes from its own package is the count of code points; a bundle in a webview has no require.
  const inlined = js.replaceAll(/require\("ajv\/dist\/runtime\/ucs2length"\)\.default/g, '(text => [...text].length)');
  if (inlined.includes('require(')) {
    throw new Error('the validators need a helper of ajv that is not inlined here: see generate.ts');
  }
  const names = ROOTS.map(name => `export const is${name}: Validator<${name}>;`).join('\n');
  const dts = `${HEADER}import type { ${ROOTS.join(', ')} } from './types.ts';\n\nexport interface Validator<T> {\n  (value: unknown): value is T;\n  errors?: { instancePath: string; message?: string; params?: Readonly<Record<string, unknown>> }[] | null;\n}\n${names}\n`;
  return { js: `${HEADER}${inlined}\n`, dts };
}

/** Ajv passes over what is no object where a tag tells the variants apart: a number would be every one of them. */
function isTagged(value: unknown): value is object {
  return typeof value === 'object' && value !== null && 'discriminator' in value;
}

/** Of these keys an object has one, which pydantic checks by code. */
const EXACTLY_ONE: Readonly<Partial<Record<string, readonly string[]>>> = { TensorizeRule: ['chi', 'keep', 'error'], PlanHeal: ['minutes', 'tokens', 'epochs'] };

/** The schema of a plan alone, for an editor. Leaving a key out is enough there: no `null` beside each value, in checks and completions. */
function planSchema({ $defs }: Schema): string {
  const used = new Set<string>();
  const plain = (node: unknown): unknown => {
    if (Array.isArray(node)) {
      return node.map(plain);
    }
    if (typeof node !== 'object' || node === null) {
      return node;
    }
    const { anyOf, default: fallback, $ref, title, ...rest } = node as Record<string, unknown>;
    const values = Array.isArray(anyOf) ? (anyOf as { type?: string }[]).filter(({ type }) => type !== 'null') : undefined;
    const name = typeof $ref === 'string' ? $ref.split('/').at(-1) : undefined;
    if (name !== undefined) {
      used.add(name);
    }
    const value: object = !values ? {} : values.length === 1 ? (plain(values[0]) as object) : { anyOf: plain(values) };
    return {
      ...(name === undefined ? {} : { $ref: `#/definitions/${name}` }),
      ...(fallback === undefined || fallback === null ? {} : { default: fallback }),
      ...value,
      // Pydantic's titles are the keys again; a property of that name is a schema.
      ...(typeof title === 'object' ? { title: plain(title) } : {}),
      ...Object.fromEntries(Object.entries(rest).map(([key, value]) => [key, plain(value)])),
    };
  };
  const root = plain($defs.PlanFile) as object;
  const definitions: Record<string, unknown> = {};
  // A set also gives what is added to it while it is walked.
  for (const name of used) {
    const exactlyOne = EXACTLY_ONE[name]?.map(key => ({ required: [key] }));
    definitions[name] = { ...(plain($defs[name]) as object), ...(exactlyOne && { oneOf: exactlyOne }) };
  }
  return `${JSON.stringify({ $schema: 'http://json-schema.org/draft-07/schema#', ...root, allowComments: true, allowTrailingCommas: true, definitions }, null, 1)}\n`;
}

/** The manifest with the schema of each tool's input: `bondwise_list_layers` takes `ListLayersInput`. */
async function manifest({ $defs }: Schema): Promise<string> {
  const found = JSON.parse(await readFile(path.join(projectRoot, 'package.json'), 'utf8')) as { contributes: { languageModelTools?: { name: string; inputSchema?: unknown }[] } };
  for (const tool of found.contributes.languageModelTools ?? []) {
    const name = `${tool.name.replace(/^bondwise/, '').replace(/_(.)/g, (_, letter: string) => letter.toUpperCase())}Input`;
    const schema = dropTitles($defs[name], false) as Record<string, unknown>;
    tool.inputSchema = Object.fromEntries(Object.entries(schema).filter(([key]) => key !== 'description'));
  }
  return `${JSON.stringify(found, null, 2)}\n`;
}

const environment = await ensureEnvironment();
const { stdout } = await execa(environment.python, ['-m', 'bondwise', 'schema'], { cwd: path.join(projectRoot, 'engine') });
const schema = JSON.parse(stdout) as Schema;
const { js, dts } = validators(schema);
const folder = 'extension/protocol';
const made = await manifest(schema);
const [words, about] = (await Promise.all(['package.nls.json', 'extension/docs/commands.json'].map(async file => JSON.parse(await readFile(path.join(projectRoot, file), 'utf8')) as Record<string, string>))) as [Record<string, string>, Record<string, string>];
const pages = JSON.parse(made) as Manifest;
const docs = { 'commands.md': commandsPage(pages, words, about), 'settings.md': settingsPage(pages, words), 'files.md': filesPage(schema.$defs as Parameters<typeof filesPage>[0]) };
const files = { [`${folder}/schema.json`]: `${JSON.stringify(schema, null, 1)}\n`, [`${folder}/types.ts`]: await types(schema), [`${folder}/validate.js`]: js, [`${folder}/validate.d.ts`]: dts, [`${folder}/plan.schema.json`]: planSchema(schema), 'package.json': made, ...Object.fromEntries(Object.entries(docs).map(([name, text]) => [`extension/docs/${name}`, text])) };
const check = process.argv.includes('--check');
const stale: string[] = [];
for (const [name, text] of Object.entries(files)) {
  const file = path.join(projectRoot, name);
  if (text !== (await readFile(file, 'utf8').catch(() => ''))) {
    stale.push(name);
    if (!check) {
      await writeFile(file, text);
    }
  }
}
if (check && stale.length > 0) {
  console.error(`stale: ${stale.join(', ')}. Run: npm run generate`);
  process.exit(1);
}
console.log(stale.length > 0 ? `wrote ${stale.join(', ')}` : 'the generated files are up to date');
