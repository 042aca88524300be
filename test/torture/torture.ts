/**
 * `npm run torture [-- --short | --long] [--only NAME …] [--seed N] [--list]`: faults and hostile input, by the thousand.
 *
 * A torture is a file in this folder, `NAME.ts` or `NAME.py`, that exports `torture(options)` and returns rows. Python ones run with the
 * development environment's interpreter. Each row counts what was done to Bondwise and how often it stood it; the table at the end is that
 * of the README. `--short` takes about a minute and is a suite of `npm test`; without it minutes, with `--long` hours.
 */
import { spawn } from 'node:child_process';
import os from 'node:os';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { engineVariables, type Environment } from '../../extension/engine/find.ts';
import { formatDuration } from '../../extension/runs/format.ts';
import { ensureEnvironment } from '../../extension/scripts/environment.ts';
import { formatTable, main, ScriptError } from '../../extension/scripts/terminal.ts';

export type Size = 'short' | 'usual' | 'long';

export interface Options {
  readonly size: Size;
  /** The same seed, the same faults. */
  readonly seed: number;
  readonly python: () => Promise<Environment>;
}

export interface Row {
  readonly what: string;
  /** What is counted: inputs, kills, mutants … */
  readonly unit: string;
  readonly tried: number;
  /** How many of them went as they must. */
  readonly stood: number;
  /** Figures beside the count, and what could not be done here. */
  readonly note?: string;
  /** Why nothing was tried on this machine. */
  readonly left_out?: string;
  /** Of those that did not: enough to do it again. */
  readonly failures?: readonly string[];
}

/** In the order in which they run: what is quick first. */
const TORTURES = ['fuzz-headers.ts', 'fuzz-files.ts', 'fuzz_gguf.py', 'contract.ts', 'disturbed.ts', 'kills.py', 'faults.py', 'mutants.ts', 'soak.ts'] as const;
/** Left out of --short: they need a workbench, or minutes. */
const LONGER: readonly string[] = ['fuzz_gguf.py', 'mutants.ts', 'soak.ts'];
const SHOWN = 10;

async function runTypeScript(file: string, options: Options): Promise<unknown> {
  const module: unknown = await import(pathToFileURL(file).href);
  if (typeof module !== 'object' || module === null || !('torture' in module) || typeof module.torture !== 'function') {
    throw new ScriptError(`${file} exports no function torture.`);
  }
  const result: unknown = await (module.torture as (given: Options) => unknown)(options);
  return result;
}

async function runPython(file: string, { size, seed, python }: Options): Promise<unknown> {
  const environment = await python();
  const code = 'import json, runpy, sys; rows = runpy.run_path(sys.argv[1])["torture"](sys.argv[2], int(sys.argv[3])); print(); print(json.dumps(rows))';
  const folders = [path.join(import.meta.dirname, '../engine'), import.meta.dirname];
  const variables = engineVariables(environment);
  const env = { ...process.env, ...variables, PYTHONPATH: [variables.PYTHONPATH, ...folders].join(path.delimiter), OMP_NUM_THREADS: '1' };
  const output = await new Promise<string>((resolve, reject) => {
    const child = spawn(environment.python, ['-c', code, file, size, String(seed)], { env, stdio: ['ignore', 'pipe', 'inherit'] });
    let text = '';
    child.stdout.on('data', (chunk: Buffer) => (text += chunk.toString()));
    child.on('error', reject);
    child.on('close', status => (status === 0 ? resolve(text) : reject(new ScriptError(`${path.basename(file)} failed: see above.`))));
  });
  return JSON.parse(output.trimEnd().split('\n').at(-1) ?? '');
}

function isRow(value: unknown): value is Row {
  const row = value as Partial<Record<keyof Row, unknown>> | null;
  return typeof row === 'object' && row !== null && typeof row.what === 'string' && typeof row.unit === 'string' && typeof row.tried === 'number' && typeof row.stood === 'number';
}

await main(async () => {
  const { values } = parseArgs({
    options: {
      short: { type: 'boolean', default: false },
      long: { type: 'boolean', default: false },
      only: { type: 'string', multiple: true, default: [] },
      seed: { type: 'string' },
      list: { type: 'boolean', default: false },
    },
  });
  const names = TORTURES.map(file => path.parse(file).name);
  if (values.list) {
    console.log(names.join('\n'));
    return 0;
  }
  const unknown = values.only.filter(name => !names.includes(name));
  const seed = Number(values.seed ?? 20_261_127);
  if (unknown.length > 0 || (values.short && values.long) || !Number.isSafeInteger(seed)) {
    throw new ScriptError(`usage: npm run torture [-- --short | --long] [--only NAME …] [--seed N]; NAME is one of ${names.join(', ')}.`);
  }
  const size: Size = values.short ? 'short' : values.long ? 'long' : 'usual';
  let environment: Promise<Environment> | undefined;
  const options: Options = { size, seed, python: () => (environment ??= ensureEnvironment('requirements-dev.lock')) };
  const chosen = TORTURES.filter(file => (values.only.length > 0 ? values.only.includes(path.parse(file).name) : size !== 'short' || !LONGER.includes(file)));
  const table: string[][] = [];
  let failed = 0;
  for (const file of chosen) {
    const { name } = path.parse(file);
    console.log(`\n━━ ${name}`);
    const start = performance.now();
    let rows: Row[] = [];
    try {
      const full = path.join(import.meta.dirname, file);
      const result = await (file.endsWith('.py') ? runPython(full, options) : runTypeScript(full, options));
      rows = Array.isArray(result) ? result.filter(isRow) : [];
    } catch (error) {
      console.error(error instanceof ScriptError ? error.message : error);
    }
    if (rows.length === 0) {
      rows = [{ what: `${name} did not run`, unit: 'tortures', tried: 1, stood: 0 }];
    }
    for (const { what, unit, tried, stood, left_out: reason, note = reason && `left out: ${reason}`, failures = [] } of rows) {
      const isWhole = (tried > 0 || reason !== undefined) && stood === tried;
      failed += isWhole ? 0 : 1;
      console.log(`${isWhole ? '✔' : '✖'} ${what}: ${stood} of ${tried} ${unit}${note === undefined ? '' : `; ${note}`}`);
      for (const failure of failures.slice(0, SHOWN)) {
        console.log(`    ${failure}`);
      }
      table.push([what, `${tried} ${unit}`, String(stood), `npm run torture -- ${size === 'usual' ? '' : `--${size} `}--only ${name}`, note ?? '']);
    }
    console.log(`  ${formatDuration((performance.now() - start) / 1000)}`);
  }
  console.log(`\n${formatTable(['what', 'tried', 'stood', 'command', ''], table)}`);
  console.log(`\nseed ${seed}; ${os.cpus()[0]?.model ?? ''}, ${os.availableParallelism()} cores; ${failed === 0 ? 'all stood' : `${failed} rows did not stand`}`);
  // As mocha says it: `npm test` counts these.
  console.log(`\n  ${table.length - failed} passing\n  ${failed} failing`);
  return failed === 0 ? 0 : 1;
});
