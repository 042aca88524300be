/** What of others is in the package: their licences in words, and a bill of materials that programs read. Made of what the bundles hold. */
import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { projectRoot } from './project.ts';
import { ScriptError } from './terminal.ts';

/** Licences under which parts may be in a package that is Apache-2.0. Another one stops the packaging until a person has looked. */
const ALLOWED: ReadonlySet<string> = new Set(['MIT', 'ISC', 'BSD-2-Clause', 'BSD-3-Clause', 'Apache-2.0', '0BSD', 'BlueOak-1.0.0', 'Unlicense', 'CC0-1.0', '(MIT OR CC0-1.0)']);

interface Package {
  readonly name: string;
  readonly version: string;
  readonly license: string;
  /** Of its licence file and notice. */
  readonly text: string;
}

/**
 * @param bundled the files in the bundles, from the project's folder: dist/bundled.json
 * @throws ScriptError for a package without a licence, or with one that nobody has looked at
 */
export async function bundledPackages(bundled: readonly string[]): Promise<readonly Package[]> {
  const folders = new Set(bundled.flatMap(file => /^(?:.*\/)?node_modules\/(?:@[^/]+\/)?[^/]+/.exec(file)?.[0] ?? []));
  const packages = await Promise.all([...folders].map(readPackage));
  const odd = packages.filter(({ license }) => !ALLOWED.has(license));
  if (odd.length > 0) {
    throw new ScriptError(`Look at the licences of ${odd.map(({ name, license }) => `${name} (${license || 'none'})`).join(', ')}, then add them to notices.ts or remove the package.`);
  }
  return packages.sort((a, b) => (a.name < b.name ? -1 : 1));
}

async function readPackage(folder: string): Promise<Package> {
  const place = path.join(projectRoot, folder);
  const { name, version, license } = JSON.parse(await readFile(path.join(place, 'package.json'), 'utf8')) as Partial<Record<string, unknown>>;
  if (typeof name !== 'string' || typeof version !== 'string') {
    throw new ScriptError(`${folder}/package.json has no name and version.`);
  }
  const files = (await readdir(place)).filter(file => /^(licen[cs]e|notice|copying)/i.test(file)).sort();
  const texts = await Promise.all(files.map(file => readFile(path.join(place, file), 'utf8')));
  return { name, version, license: typeof license === 'string' ? license : '', text: texts.map(text => text.trim()).join('\n\n') };
}

/** The text of THIRD_PARTY_NOTICES. */
export function noticesOf(packages: readonly Package[]): string {
  const head =
    'Bondwise is licensed under Apache-2.0 (LICENSE). Its bundles hold parts of the packages below. The engine’s Python packages are not in\n' +
    'this package: they are downloaded, with their licences, when you set the engine up; sbom.cdx.json lists them with their hashes.\n';
  const parts = packages.map(({ name, version, license, text }) => `${'-'.repeat(80)}\n${name} ${version} (${license})\n\n${text || `Licensed under ${license}; the package has no licence file.`}\n`);
  return [head, ...parts].join('\n');
}

/** A CycloneDX 1.6 bill of materials: what is bundled, and what the lock file has the engine's environment made of. */
export function sbomOf(version: string, packages: readonly Package[], lock: string): object {
  const bundled = packages.map(({ name, version: of, license }) => ({
    type: 'library',
    scope: 'required',
    name,
    version: of,
    purl: `pkg:npm/${name.replace('@', '%40')}@${of}`,
    licenses: [license.startsWith('(') ? { expression: license.slice(1, -1) } : { license: { id: license } }],
  }));
  const python = lockedPackages(lock).map(({ name, version: of, hashes }) => ({
    type: 'library',
    // Downloaded by the user's own package manager, held to these hashes.
    scope: 'optional',
    name,
    version: of,
    purl: `pkg:pypi/${name}@${of}`,
    properties: hashes.map(value => ({ name: 'bondwise:lock:sha256', value })),
  }));
  return {
    bomFormat: 'CycloneDX',
    specVersion: '1.6',
    version: 1,
    metadata: { component: { type: 'application', name: 'bondwise', version, licenses: [{ license: { id: 'Apache-2.0' } }], purl: `pkg:generic/bondwise@${version}` } },
    components: [...bundled, ...python],
    properties: [{ name: 'bondwise:requirements.lock:sha256', value: createHash('sha256').update(lock).digest('hex') }],
  };
}

/** `NAME==VERSION ; MARKER --hash=sha256:…` of a requirements file. @throws ScriptError for a line without a hash. */
export function lockedPackages(lock: string): readonly { readonly name: string; readonly version: string; readonly hashes: readonly string[] }[] {
  const entries = lock.replaceAll('\\\n', ' ').split('\n').filter(line => /^[A-Za-z0-9]/.test(line));
  return entries.map(line => {
    const [, name, version] = /^([\w.-]+)==([^\s;]+)/.exec(line) ?? [];
    const hashes = [...line.matchAll(/--hash=sha256:([0-9a-f]{64})/g)].flatMap(([, hash]) => hash ?? []);
    if (name === undefined || version === undefined || hashes.length === 0) {
      throw new ScriptError(`The lock file has a line that is not NAME==VERSION with hashes: ${line.slice(0, 80)}`);
    }
    return { name, version, hashes };
  });
}
