/**
 * Builds `dist/`: one JavaScript module and its declarations, because Node runs no TypeScript inside node_modules.
 * Within the workspace the package is its source. npm runs `--publish` before it packs, which builds and lets `exports` name `dist/`, and
 * `--workspace` afterwards, which lets it name the source again.
 */
import { readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { build } from 'esbuild';
import ts from 'typescript';

const root = import.meta.dirname;
const [mode] = process.argv.slice(2);

if (mode !== '--workspace') {
  await rm(path.join(root, 'dist'), { recursive: true, force: true });
  await build({
    absWorkingDir: root,
    entryPoints: ['src/index.ts'],
    outfile: 'dist/index.js',
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node20',
    sourcemap: 'linked',
  });
  declare();
}
if (mode === '--publish') await setExports({ types: './dist/index.d.ts', default: './dist/index.js' });
if (mode === '--workspace') await setExports('./src/index.ts');

/** Declarations beside the module, which name each other as `.js`. */
function declare() {
  const { config } = ts.readConfigFile(path.join(root, '../../tsconfig.json'), ts.sys.readFile);
  const { options } = ts.convertCompilerOptionsFromJson(config.compilerOptions, path.join(root, '../..'));
  const program = ts.createProgram([path.join(root, 'src/index.ts')], {
    ...options,
    noEmit: false,
    declaration: true,
    emitDeclarationOnly: true,
    rootDir: path.join(root, 'src'),
    outDir: path.join(root, 'dist'),
  });
  const write = (file, text) => ts.sys.writeFile(file, text.replace(/(from '\.[^']*)\.ts'/g, "$1.js'"));
  const { diagnostics } = program.emit(undefined, write);
  const problems = [...ts.getPreEmitDiagnostics(program), ...diagnostics];
  if (problems.length > 0) throw new Error(ts.formatDiagnostics(problems, { getCanonicalFileName: (name) => name, getCurrentDirectory: () => root, getNewLine: () => '\n' }));
}

async function setExports(exports) {
  const file = path.join(root, 'package.json');
  const manifest = JSON.parse(await readFile(file, 'utf8'));
  await writeFile(file, `${JSON.stringify({ ...manifest, exports }, undefined, 2)}\n`);
}
