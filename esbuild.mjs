/**
 * `npm run build [-- --production] [-- --watch]`: every bundle into dist/.
 * `extension.cjs` runs in the extension host, `webview/*` in the browser, `test-host.cjs` is the suite of test/host.
 */
import { writeFile } from 'node:fs/promises';
import { build, context } from 'esbuild';

const production = process.argv.includes('--production');
const watch = process.argv.includes('--watch');

/** @type {import('esbuild').BuildOptions} */
const common = {
  absWorkingDir: import.meta.dirname,
  bundle: true,
  logLevel: 'warning',
  sourcemap: production ? false : 'linked',
  minify: production,
  legalComments: 'none',
  metafile: production,
};

/** @type {import('esbuild').BuildOptions} */
const host = {
  ...common,
  platform: 'node',
  format: 'cjs',
  target: 'node22',
  // CommonJS has no import.meta; modules that ask where they are get the bundle's own place.
  // Its main is a UMD module, whose requires esbuild cannot follow.
  alias: { 'jsonc-parser': 'jsonc-parser/lib/esm/main.js' },
  define: { 'import.meta.dirname': '__dirname', 'import.meta.filename': '__filename' },
};

/** @type {import('esbuild').BuildOptions[]} */
const bundles = [
  { ...host, entryPoints: ['extension/extension.ts'], outfile: 'dist/extension.cjs', external: ['vscode'] },
  {
    ...common,
    entryPoints: {
      chat: 'webview/chat/main.ts',
      compare: 'webview/compare/main.ts',
      diff: 'webview/diff/main.ts',
      map: 'webview/map/main.ts',
      report: 'webview/report/main.ts',
      run: 'webview/run/main.ts',
      sensitivity: 'webview/sensitivity/main.ts',
      tensors: 'webview/tensors/main.ts',
    },
    outdir: 'dist/webview',
    platform: 'browser',
    format: 'iife',
    target: 'es2022',
  },
];
if (!production) {
  // Mocha stays outside: it is required from node_modules beside dist/.
  bundles.push({ ...host, entryPoints: ['test/host/index.ts'], outfile: 'dist/test-host.cjs', external: ['vscode', 'mocha'] });
}

if (watch) {
  for (const options of bundles) {
    await (await context(options)).watch();
  }
  console.log('watching');
} else {
  const built = await Promise.all(bundles.map(options => build(options)));
  if (production) {
    // What extension/scripts/notices.ts names: the files of which at least a byte is in a bundle.
    const parts = built.flatMap(({ metafile }) => Object.values(metafile.outputs).flatMap(({ inputs }) => Object.entries(inputs)));
    const used = new Set(parts.filter(([, { bytesInOutput }]) => bytesInOutput > 0).map(([file]) => file));
    await writeFile(new URL('dist/bundled.json', import.meta.url), `${JSON.stringify([...used].sort(), null, 1)}\n`);
  }
}
