/**
 * What the engine really writes, of each kind of run, against the types that the extension reads: run.json, status, result, every event of the
 * journal, profiles, benchmarks, lineages, and the models that were made.
 */
import { spawn } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { openModel } from '../../extension/checkpoint/index.ts';
import { engineVariables } from '../../extension/engine/find.ts';
import { isBenchmark, isLineage, isRunEvent, isRunRequest, isRunResult, isRunStatus, isSensitivity, type Validator } from '../../extension/protocol/validate.js';
import { reasonOf } from '../../extension/runs/files.ts';
import { RunReader } from '../../extension/runs/reader.ts';
import type { Options, Row } from './torture.ts';

export async function torture({ python }: Options): Promise<Row[]> {
  const environment = await python();
  const work = await mkdtemp(path.join(tmpdir(), 'bondwise-torture-'));
  try {
    const variables = engineVariables(environment);
    const env = { ...process.env, ...variables, OMP_NUM_THREADS: '1', PYTHONPATH: [variables.PYTHONPATH, path.join(import.meta.dirname, '../engine'), import.meta.dirname].join(path.delimiter) };
    const output = await new Promise<string>((resolve, reject) => {
      const child = spawn(environment.python, [path.join(import.meta.dirname, 'contract_runs.py'), work], { env, stdio: ['ignore', 'pipe', 'inherit'] });
      let text = '';
      child.stdout.on('data', (chunk: Buffer) => (text += chunk.toString()));
      child.on('error', reject);
      child.on('close', code => (code === 0 ? resolve(text) : reject(new Error('the runs of the contract failed: see above'))));
    });
    const runs = output.split('\n').filter(line => line.startsWith(work));
    const documents: [what: string, text: string, validator: Validator<unknown>][] = [];
    const failures: string[] = [];
    for (const run of runs) {
      const read = (name: string): Promise<string> => readFile(path.join(run, name), 'utf8');
      documents.push([`${run}/run.json`, await read('run.json'), isRunRequest], [`${run}/status.json`, await read('status.json'), isRunStatus]);
      if (!run.endsWith('failed')) documents.push([`${run}/result.json`, await read('result.json'), isRunResult]);
      for (const line of (await read('events.ndjson')).trimEnd().split('\n')) documents.push([`${run}/events.ndjson`, line, isRunEvent]);
      const shown = await new RunReader(run).read();
      if (shown?.problem !== undefined || shown?.state !== (run.endsWith('failed') ? 'failed' : 'done')) failures.push(`${run}: ${shown?.state ?? 'nothing'}, ${shown?.problem ?? ''}`);
    }
    documents.push(['the profile', await readFile(path.join(work, 'profile/out.sensitivity.json'), 'utf8'), isSensitivity]);
    documents.push(['the benchmark', await readFile(path.join(work, 'benchmark/out.benchmark.json'), 'utf8'), isBenchmark]);
    for (const folder of ['tensorize/out', 'heal/out', 'quantize/out', 'more/dense']) {
      const lineage = await readFile(path.join(work, folder, 'bondwise.json'), 'utf8').catch(() => undefined);
      if (lineage !== undefined) documents.push([`${folder}/bondwise.json`, lineage, isLineage]);
      const model = await openModel(path.join(work, folder));
      if (model.blocks.length !== 2) failures.push(`${folder}: ${model.blocks.length} blocks`);
    }
    for (const [what, text, validator] of documents) {
      if (!validator(JSON.parse(text))) failures.push(`${what.replace(work, '')}: ${reasonOf(validator)}: ${text.slice(0, 120)}`);
    }
    return [{ what: `what ${runs.length} runs of every kind write, against the extension’s types`, unit: 'documents', tried: documents.length, stood: documents.length - failures.length, failures }];
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}
