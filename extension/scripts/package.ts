/** `npm run package`: the extension as bondwise-VERSION.vsix at the top of the project. */
import { cp, mkdtemp, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { formatBytes } from '../runs/format.ts';
import { bundledPackages, noticesOf, sbomOf } from './notices.ts';
import { projectRoot } from './project.ts';
import { main, runQuiet, ScriptError, step } from './terminal.ts';

const vsce = path.join(projectRoot, 'node_modules/@vscode/vsce/vsce');

/** What a user installs: bundles, assets, and the engine's source. Anything else in the package is a mistake. */
const allowed: readonly RegExp[] = [
  /^(package\.json|package\.nls(\.[a-z-]+)?\.json|LICENSE|README\.md|CHANGELOG\.md)$/,
  /^extension\/l10n\/bundle\.l10n\.[a-z-]+\.json$/,
  /^dist\/extension\.cjs$/,
  /^dist\/(THIRD_PARTY_NOTICES\.txt|sbom\.cdx\.json)$/,
  /^dist\/webview\/[\w-]+\.(js|css)$/,
  /^extension\/media\/(walkthrough\/)?[\w-]+\.(svg|png)$/,
  /^extension\/protocol\/plan\.schema\.json$/,
  /^engine\/bondwise\/([\w-]+\/)*[\w-]+\.(py|json)$/,
  /^engine\/[\w.-]+\.(lock|json)$/,
];
const required: readonly string[] = [
  'package.json', 'package.nls.json', 'package.nls.de.json', 'extension/l10n/bundle.l10n.de.json', 'LICENSE', 'README.md', 'CHANGELOG.md', 'dist/extension.cjs', 'dist/THIRD_PARTY_NOTICES.txt', 'dist/sbom.cdx.json', 'extension/protocol/plan.schema.json',
  'engine/bondwise/__main__.py', 'engine/bondwise/modeling_mpo.py',
  'engine/bondwise/modelmap.json', 'engine/requirements.lock',
];
const largest = 2_000_000;

/** The parts of the project that the package is made of. vsce walks all folders beside them too, and those of the tests are huge. */
const parts: readonly string[] = [
  'package.json', 'package.nls.json', 'package.nls.de.json', 'extension/l10n', '.vscodeignore', 'LICENSE', 'README.md', 'CHANGELOG.md', 'dist', 'extension/media', 'extension/protocol/plan.schema.json', 'engine',
];

/** Builds, packages and checks the extension. Returns the path of the VSIX, which appears only when it passed. */
export async function packageExtension(): Promise<string> {
  const target = path.join(projectRoot, `bondwise-${await version()}.vsix`);
  const partial = `${target}.partial`;
  const stage = await mkdtemp(path.join(tmpdir(), 'bondwise-package-'));
  try {
    await runQuiet(process.execPath, ['esbuild.mjs', '--production'], { cwd: projectRoot, failure: 'The extension does not build.' });
    await writeNotices();
    for (const part of parts) {
      await cp(path.join(projectRoot, part), path.join(stage, part), { recursive: true });
    }
    const listing = await runQuiet(process.execPath, [vsce, 'ls', '--no-dependencies'], { cwd: stage, failure: 'vsce cannot list the files to package.' });
    checkFiles(listing, await engineSource(stage));
    const output = await runQuiet(process.execPath, [vsce, 'package', '--no-dependencies', '--out', partial], {
      cwd: stage,
      failure: 'vsce refuses to package the extension.',
    });
    if (/warning/i.test(output)) {
      throw new ScriptError(`vsce warns, and a release must not:\n${output}`);
    }
    const { size } = await stat(partial);
    if (size > largest) {
      throw new ScriptError(`The package has ${formatBytes(size)}, more than ${formatBytes(largest)}: look at what "npx vsce ls --no-dependencies" lists.`);
    }
    await rename(partial, target);
  } finally {
    await rm(partial, { force: true });
    await rm(stage, { recursive: true, force: true });
  }
  return target;
}

/** Beside the bundles that they are about. */
async function writeNotices(): Promise<void> {
  const dist = path.join(projectRoot, 'dist');
  const bundled = JSON.parse(await readFile(path.join(dist, 'bundled.json'), 'utf8')) as readonly string[];
  const packages = await bundledPackages(bundled);
  await writeFile(path.join(dist, 'THIRD_PARTY_NOTICES.txt'), noticesOf(packages));
  const lock = await readFile(path.join(projectRoot, 'engine/requirements.lock'), 'utf8');
  await writeFile(path.join(dist, 'sbom.cdx.json'), `${JSON.stringify(sbomOf(await version(), packages, lock), null, 1)}\n`);
}

/** `engineFiles` are those of the engine's source: a folder of it that .vscodeignore does not name would be missed by every user. */
function checkFiles(listing: string, engineFiles: readonly string[]): void {
  const files = listing.split('\n').map((line) => line.trim()).filter((line) => line !== '');
  const foreign = files.filter((file) => !allowed.some((pattern) => pattern.test(file)));
  const missing = [...required, ...engineFiles].filter((file) => !files.includes(file));
  if (foreign.length > 0 || missing.length > 0) {
    throw new ScriptError(
      `The package would ${[
        foreign.length > 0 ? `hold files that are none of its: ${foreign.join(', ')}` : '',
        missing.length > 0 ? `lack files that it needs: ${missing.join(', ')}` : '',
      ].filter(Boolean).join('; and ')}. Mend .vscodeignore.`,
    );
  }
}

async function engineSource(stage: string): Promise<string[]> {
  const files = await readdir(path.join(stage, 'engine/bondwise'), { recursive: true });
  return files.filter((file) => file.endsWith('.py')).map((file) => `engine/bondwise/${file.split(path.sep).join('/')}`);
}

async function version(): Promise<string> {
  const manifest: unknown = JSON.parse(await readFile(path.join(projectRoot, 'package.json'), 'utf8'));
  if (typeof manifest === 'object' && manifest !== null && 'version' in manifest && typeof manifest.version === 'string') {
    return manifest.version;
  }
  throw new ScriptError('package.json has no version.');
}

if (process.argv[1] === import.meta.filename) {
  await main(async () => {
    const file = await step('Building and packaging the extension', packageExtension);
    console.log(`${path.relative(process.cwd(), file)} (${formatBytes((await stat(file)).size)})`);
    return 0;
  });
}
