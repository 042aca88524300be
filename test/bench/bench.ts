/**
 * `npm run bench` lists the benchmarks; `npm run bench -- NAME [--json FILE]` runs one.
 *
 * A benchmark is a file in this folder, `NAME.ts` or `NAME.py`. Its first comment says what it measures. It exports
 * `bench()`, which returns rows: a list of flat records with the same keys, whose units stand in the keys (`open_ms`, `peak_mb`).
 * Python benchmarks run with the development environment's interpreter and may print progress on stderr.
 */
import { spawn } from 'node:child_process';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { engineVariables } from '../../extension/engine/find.ts';
import { ensureEnvironment } from '../../extension/scripts/environment.ts';
import { formatTable, main, ScriptError } from '../../extension/scripts/terminal.ts';

type Cell = number | string | boolean | null;
export type Row = Readonly<Record<string, Cell>>;

const folder = import.meta.dirname;

async function list(): Promise<string[]> {
  const files = await readdir(folder);
  return files.filter((file) => /^[a-z][\w-]*\.(ts|py)$/.test(file) && file !== 'bench.ts').sort();
}

/** The first paragraph of a file's first comment or docstring. */
function purpose(source: string): string {
  const text = /\/\*\*([\s\S]*?)\*\/|"""([\s\S]*?)"""/.exec(source);
  const lines = (text?.[1] ?? text?.[2] ?? '').split('\n').map((line) => line.replace(/^\s*\*? ?/, '').trim());
  const start = lines.findIndex((line) => line !== '');
  const end = lines.indexOf('', start);
  return start < 0 ? '' : lines.slice(start, end < 0 ? undefined : end).join(' ');
}

async function runTypeScript(file: string): Promise<unknown> {
  const module: unknown = await import(pathToFileURL(file).href);
  if (typeof module !== 'object' || module === null || !('bench' in module) || typeof module.bench !== 'function') {
    throw new ScriptError(`${file} exports no function bench.`);
  }
  const result: unknown = await (module.bench as () => unknown)();
  return result;
}

async function runPython(file: string): Promise<unknown> {
  const environment = await ensureEnvironment('requirements-dev.lock');
  const code = 'import json, runpy, sys; rows = runpy.run_path(sys.argv[1])["bench"](); print(); print(json.dumps(rows))';
  const output = await new Promise<string>((resolve, reject) => {
    const child = spawn(environment.python, ['-c', code, file], {
      env: { ...process.env, ...engineVariables(environment) },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let text = '';
    child.stdout.on('data', (chunk: Buffer) => (text += chunk.toString()));
    child.on('error', reject);
    child.on('close', (code) => (code === 0 ? resolve(text) : reject(new ScriptError(`${path.basename(file)} failed: see above.`))));
  });
  return JSON.parse(output.trimEnd().split('\n').at(-1) ?? '');
}

/** Rows, or an error that names the benchmark: what it returns comes from another file and maybe another language. */
function checkRows(name: string, value: unknown): Row[] {
  const isRow = (row: unknown): row is Row =>
    typeof row === 'object' && row !== null && Object.values(row).every((cell) => cell === null || ['number', 'string', 'boolean'].includes(typeof cell));
  if (!Array.isArray(value) || value.length === 0 || !value.every(isRow)) {
    throw new ScriptError(`bench() of ${name} must return a list of flat records, at least one.`);
  }
  return value;
}

function formatCell(cell: Cell | undefined): string {
  return typeof cell === 'number' ? (Number.isInteger(cell) ? String(cell) : String(Number(cell.toPrecision(4)))) : String(cell ?? '');
}

await main(async () => {
  const { values, positionals } = parseArgs({ allowPositionals: true, options: { json: { type: 'string' } } });
  const files = await list();
  const [name] = positionals;
  if (name === undefined) {
    const rows = await Promise.all(files.map(async (file) => [path.parse(file).name, purpose(await readFile(path.join(folder, file), 'utf8'))]));
    for (const [benchmark = '', text = ''] of rows) {
      console.log(`${benchmark.padEnd(16)} ${text}`);
    }
    return 0;
  }
  const file = files.find((candidate) => path.parse(candidate).name === name);
  if (file === undefined || positionals.length > 1) {
    throw new ScriptError(`No benchmark "${positionals.join(' ')}". There are: ${files.map((candidate) => path.parse(candidate).name).join(', ')}`);
  }
  const start = performance.now();
  const full = path.join(folder, file);
  const rows = checkRows(name, await (file.endsWith('.py') ? runPython(full) : runTypeScript(full)));
  const seconds = (performance.now() - start) / 1000;
  const columns = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  console.log(formatTable(columns, rows.map((row) => columns.map((column) => formatCell(row[column])))));
  const machine = { cpu: os.cpus()[0]?.model ?? '', cores: os.availableParallelism(), memory_gb: Math.round(os.totalmem() / 1e9), load: os.loadavg()[0] };
  console.log(`\n${machine.cpu}, ${machine.cores} cores, load ${(machine.load ?? 0).toFixed(1)}; ${seconds.toFixed(1)} s in all`);
  if (values.json !== undefined) {
    await writeFile(values.json, `${JSON.stringify({ name, date: new Date().toISOString(), machine, seconds, rows }, null, 2)}\n`);
  }
  return 0;
});
