/**
 * `npm start`: from a bare machine to a compressed model that writes sensible text, in the terminal.
 * `npm start -- --open [--port N]`: the same, then a real VS Code workbench on this machine's loopback with both models open.
 */
import path from 'node:path';
import { parseArgs } from 'node:util';
import type { Evaluation, TensorizeResult } from '../protocol/types.ts';
import { formatBytes, formatDuration, formatParameters } from '../runs/format.ts';
import { sameSpeed } from '../views/measured.ts';
import { compressDemo, demoFolder, demoModel, demoOutput, getSampleModel } from './demo.ts';
import { ensureEnvironment } from './environment.ts';
import { serveWorkbench } from './open.ts';
import { packageExtension } from './package.ts';
import { formatTable, main, ScriptError, step } from './terminal.ts';

await main(async () => {
  const { open, port } = readOptions();
  const start = performance.now();
  const environment = await ensureEnvironment();
  const vsix = await step('Building the extension', packageExtension);
  await step(`Sample model in ${demoModel()}`, () => getSampleModel(environment, demoModel(), 'terminal'));
  const result = await step(`Compressed model in ${demoOutput()}`, () => compressDemo(environment));
  console.log(`\n${describe(result)}\n`);
  console.log(`All of it took ${formatDuration((performance.now() - start) / 1000)}.`);
  if (open) {
    return serveWorkbench({ vsix, folder: demoFolder(), ...(port === undefined ? {} : { port }) });
  }
  console.log('See it in VS Code:   npm start -- --open');
  console.log(`or in your own:      code --install-extension ${path.relative(process.cwd(), vsix)} && code ${quote(demoFolder())}`);
  return 0;
});

function readOptions(): { readonly open: boolean; readonly port: number | undefined } {
  try {
    const { values } = parseArgs({ options: { open: { type: 'boolean', default: false }, port: { type: 'string' } } });
    const port = values.port === undefined ? undefined : Number(values.port);
    if (port !== undefined && !(Number.isInteger(port) && port > 0 && port < 65536)) {
      throw new Error(`--port must be a number from 1 to 65535, not ${values.port ?? ''}`);
    }
    return { open: values.open, port };
  } catch (error) {
    throw new ScriptError(`${error instanceof Error ? error.message : String(error)}\nusage: npm start -- [--open [--port N]]`);
  }
}

/** The figures of both models side by side, and what both write. */
function describe(result: TensorizeResult): string {
  const { original, compressed } = result;
  if (!original || !compressed) {
    throw new ScriptError('The models were not measured.');
  }
  const change = (before: number, after: number): string => `${after >= before ? '+' : '−'}${Math.abs((after / before - 1) * 100).toFixed(1)}%`;
  const perplexity = (evaluation: Evaluation): string => `${evaluation.perplexity.toFixed(2)} ± ${evaluation.standard_error.toFixed(2)}`;
  const layers = result.layers.reduce((sum, layer) => ({ before: sum.before + layer.original_parameters, after: sum.after + layer.parameters }), { before: 0, after: 0 });
  const rows = [
    ['compressed layers', '0', String(result.layers.length), ''],
    ['parameters in those', formatParameters(layers.before), formatParameters(layers.after), change(layers.before, layers.after)],
    ['parameters', formatParameters(result.original_parameters), formatParameters(result.parameters), change(result.original_parameters, result.parameters)],
    ['bytes', formatBytes(result.original_bytes), formatBytes(result.bytes), change(result.original_bytes, result.bytes)],
    ['perplexity', perplexity(original), perplexity(compressed), change(original.perplexity, compressed.perplexity)],
    ['tokens/s', original.tokens_per_second.toFixed(0), compressed.tokens_per_second.toFixed(0), sameSpeed(original, compressed) ? 'same' : change(original.tokens_per_second, compressed.tokens_per_second)],
  ];
  return [
    formatTable(['', 'original', 'compressed', 'change'], rows),
    '',
    `“${original.prompt}”`,
    `  original:   ${oneLine(original.sample)}`,
    `  compressed: ${oneLine(compressed.sample)}`,
  ].join('\n');
}

function oneLine(text: string): string {
  return text.trim().replace(/\s+/g, ' ');
}

function quote(file: string): string {
  return /^[\w./-]+$/.test(file) ? file : `'${file.replaceAll("'", "'\\''")}'`;
}
