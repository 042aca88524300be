/**
 * Every kind of file and message that one part of Bondwise reads from another, nearly right, through the readers and the pure functions
 * behind them in the extension and the webviews, and the same files through the engine's readers.
 *
 * A reader may refuse, in its own words. It may not throw anything else, hang, or name a file outside the folder that it was given.
 */
import { once } from 'node:events';
import { spawn } from 'node:child_process';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { existsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { readBenchmark } from '../../extension/benchmark/read.ts';
import { CheckpointError, openModel, toInspection } from '../../extension/checkpoint/index.ts';
import { engineVariables } from '../../extension/engine/find.ts';
import { Plan, PlanError } from '../../extension/plan/planFile.ts';
import { keptBy } from '../../extension/plan/overlay.ts';
import { SelectorError, selectLayers } from '../../extension/plan/selectors.ts';
import { changesSince } from '../../extension/profile/changes.ts';
import { layerSensitivities } from '../../extension/profile/levels.ts';
import { parseProfile } from '../../extension/profile/read.ts';
import type { HostMessage } from '../../extension/protocol/types.ts';
import { isHostMessage, isWebviewRequest } from '../../extension/protocol/validate.js';
import { errorOf, fractionDone, progressText } from '../../extension/runs/run.ts';
import { Journal } from '../../extension/runs/journal.ts';
import { RunReader } from '../../extension/runs/reader.ts';
import { SafetensorsError } from '../../extension/safetensors-ts/src/index.ts';
import { answerRequests } from '../../extension/panels/requests.ts';
import { figureRows, sortLayers } from '../../webview/compare/figures.ts';
import * as report from '../../webview/report/facts.ts';
import { tilesOf, leadOf, stateLine } from '../../webview/run/facts.ts';
import { rowsOf } from '../../webview/run/rows.ts';
import { Figures } from '../../webview/sensitivity/figures.ts';
import { factsOf } from '../../webview/sensitivity/facts.ts';
import { Documents } from './documents.ts';
import { Random, seedOf } from './random.ts';
import { writeModel } from '../unit/checkpoints.ts';
import type { Options, Row } from './torture.ts';

const COUNTS = { short: 700, usual: 5_000, long: 50_000 } as const;
/** Milliseconds for one input on a busy machine. */
const HANG = 5_000;

interface Target {
  readonly what: string;
  /** Definition of the schema that the document nearly follows. */
  readonly definition: string;
  /** What the engine calls this kind of file; absent where it never reads one. */
  readonly engine?: string;
  /** Throws only where it must not. Returns whether it was accepted. */
  readonly read: (text: string, folder: string) => Promise<boolean>;
}

const targets: readonly Target[] = [
  {
    what: 'plans',
    definition: 'PlanFile',
    engine: 'plan',
    read: text => {
      try {
        const plan = new Plan(text, 'a.bondwise.json');
        keptBy(plan.file, { layers: [], curves: [] });
        for (const { layers } of plan.file.tensorize) selectLayers({ blocks: [] }, layers);
        return Promise.resolve(true);
      } catch (error) {
        if (error instanceof PlanError || error instanceof SelectorError) return Promise.resolve(false);
        throw error;
      }
    },
  },
  {
    what: 'profiles',
    definition: 'Sensitivity',
    engine: 'profile',
    read: text => {
      const found = parseProfile(text, 'a.sensitivity.json');
      if (!('profile' in found)) return Promise.resolve(false);
      const { profile } = found;
      layerSensitivities(profile);
      changesSince(profile, profile);
      const figures = new Figures(profile);
      for (const metric of figures.metrics) {
        for (const layer of profile.layers) {
          figures.value(layer.name, metric, 'keep', 0.5);
          factsOf(figures, layer, { metric, axis: 'keep', size: 0.5 }, undefined);
        }
        figures.scale(metric);
      }
      return Promise.resolve(true);
    },
  },
  {
    what: 'benchmark files',
    definition: 'Benchmark',
    engine: 'benchmark',
    read: async (text, folder) => {
      const file = path.join(folder, 'a.benchmark.json');
      await writeFile(file, text);
      const { benchmark } = await readBenchmark(file);
      if (!benchmark) return false;
      report.tablesOf(benchmark);
      report.taskColumns(benchmark);
      report.missingBaselines(benchmark);
      for (const quality of report.qualitiesOf(benchmark)) report.scatterOf(benchmark, quality, report.bySize);
      for (const what of ['training', 'forward', 'decode'] as const) report.barsOf(benchmark, what);
      report.markdownOf('a', benchmark);
      report.csvOf(benchmark);
      return true;
    },
  },
  {
    what: 'requests of runs (run.json)',
    definition: 'RunRequest',
    engine: 'request',
    read: (text, folder) => readRun(folder, { 'run.json': text }),
  },
  {
    what: 'states of runs (status.json)',
    definition: 'RunStatus',
    engine: 'status',
    read: (text, folder) => readRun(folder, { 'status.json': text }),
  },
  {
    what: 'results of runs (result.json)',
    definition: 'RunResult',
    read: (text, folder) => readRun(folder, { 'result.json': text, 'status.json': '{"state":"done","updated":"2026-01-01T00:00:00Z"}' }),
  },
  {
    what: 'lineages of model folders (bondwise.json)',
    definition: 'Lineage',
    engine: 'lineage',
    read: (text, folder) => readModel(folder, 'bondwise.json', text),
  },
  {
    what: 'configurations of compressed models (config.json)',
    definition: 'MPOSection',
    engine: 'config',
    read: (text, folder) => readModel(folder, 'config.json', `{"model_type":"bondwise_mpo","architectures":["MPOForCausalLM"],"mpo":${text}}`),
  },
];

async function readRun(folder: string, files: Readonly<Record<string, string>>): Promise<boolean> {
  const request = { version: 1, kind: 'perplexity', created: '2026-01-01T00:00:00Z', title: 'A run', model: '../m', device: 'cpu', options: {} };
  for (const [name, text] of Object.entries({ 'run.json': JSON.stringify(request), 'status.json': undefined, 'result.json': undefined, ...files })) {
    await (text === undefined ? rm(path.join(folder, name), { force: true }) : writeFile(path.join(folder, name), text));
  }
  const run = await new RunReader(folder).read();
  if (!run) return false;
  progressText(run);
  errorOf(run);
  fractionDone(run);
  const { state, title, created, status, request: asked } = run;
  const view = { id: run.id, state: state === 'invalid' ? 'failed' : state, title, created, ...(status && { status }), ...(asked && { request: asked }) } as unknown as Parameters<typeof stateLine>[0];
  stateLine(view);
  leadOf(view, undefined);
  tilesOf(view, undefined);
  return state !== 'invalid' && run.problem === undefined;
}

async function readModel(folder: string, name: string, text: string): Promise<boolean> {
  await writeFile(path.join(folder, 'config.json'), '{"model_type":"llama","architectures":["LlamaForCausalLM"]}');
  await rm(path.join(folder, 'bondwise.json'), { force: true });
  await writeFile(path.join(folder, name), text);
  try {
    const model = await openModel(folder);
    toInspection(model);
    return true;
  } catch (error) {
    if (error instanceof CheckpointError || error instanceof SafetensorsError) return false;
    throw error;
  }
}

export async function torture(options: Options): Promise<Row[]> {
  const root = await mkdtemp(path.join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'bondwise-torture-'));
  try {
    const engine = await Engine.start(options, root);
    const rows: Row[] = [];
    for (const target of targets) {
      const folder = path.join(root, target.definition);
      await mkdir(folder);
      await writeModel(folder, undefined, shapes);
      rows.push(await one(target, options, folder, engine));
    }
    rows.push(await journals(options, root, engine), await engine.end(), await toHost(options), await toWebview(options));
    return rows;
  } finally {
    await rm(root, { recursive: true, force: true });
  }
}

const shapes = {
  'model.embed_tokens.weight': [4, 2],
  'model.layers.0.mlp.up_proj.core_0.weight': [2, 2],
  'model.layers.0.mlp.up_proj.core_1.weight': [2, 2],
  'model.layers.1.mlp.up_proj.weight': [4, 2],
} as const;

async function one(target: Target, { size, seed }: Options, folder: string, engine: Engine): Promise<Row> {
  const failures: string[] = [];
  let accepted = 0;
  const count = COUNTS[size];
  for (let input = 0; input < count; input++) {
    const text = textOf(target.definition, seed, input);
    const start = performance.now();
    try {
      if (await target.read(text, folder)) accepted++;
    } catch (error) {
      failures.push(`input ${input} of seed ${seed}: ${error instanceof Error ? (error.stack ?? '').split('\n').slice(0, 3).join(' ') : String(error)}: ${text.slice(0, 150)}`);
    }
    const took = performance.now() - start;
    if (took > HANG) failures.push(`input ${input} of seed ${seed}: took ${Math.round(took)} ms: ${text.slice(0, 150)}`);
    if (target.engine !== undefined) await engine.ask(target.engine, text);
  }
  return { what: `${target.what}, in the extension`, unit: 'inputs', tried: count, stood: count - failures.length, failures, note: `${accepted} accepted` };
}

function textOf(definition: string, seed: number, input: number): string {
  const documents = new Documents(new Random(seedOf(seed ^ definition.length, input)));
  const hostile = documents.random.pick<number>([0, 0, 0.02, 0.1, 0.4]);
  const document = documents.make(definition, hostile);
  if (definition === 'PlanFile' && typeof document === 'object' && document !== null && documents.random.chance(0.8)) {
    // A plan with both lists of rules is refused at once, and with anything to heal beside the second.
    for (const key of documents.random.chance(0.7) ? ['quantize'] : ['tensorize', 'heal', 'refit']) Reflect.deleteProperty(document, key);
  }
  return documents.text(document, documents.random.chance(0.3));
}

/** The engine's readers, in one process that is fed as fast as it reads. */
class Engine {
  readonly #child;
  readonly #ended: Promise<unknown>;
  #answers = '';
  #asked = 0;

  private constructor(python: string, env: NodeJS.ProcessEnv, folder: string) {
    this.#child = spawn(python, [path.join(import.meta.dirname, 'file_verdicts.py'), folder], { env, stdio: ['pipe', 'pipe', 'inherit'] });
    this.#child.stdout.on('data', (chunk: Buffer) => (this.#answers += chunk.toString()));
    this.#ended = once(this.#child, 'close');
  }

  static async start({ python }: Options, root: string): Promise<Engine> {
    const environment = await python();
    const folder = path.join(root, 'engine');
    await writeModel(folder, undefined, shapes);
    return new Engine(environment.python, { ...process.env, ...engineVariables(environment), OMP_NUM_THREADS: '1' }, folder);
  }

  async ask(kind: string, text: string): Promise<void> {
    this.#asked++;
    if (!this.#child.stdin.write(`${JSON.stringify([kind, text])}\n`)) await once(this.#child.stdin, 'drain');
  }

  async end(): Promise<Row> {
    this.#child.stdin.end();
    await this.#ended;
    const answers = this.#answers.split('\n').filter(line => line !== '');
    const failures = answers.filter(line => !/^(accepted|refused)$/.test(line));
    if (answers.length < this.#asked) failures.push(`the engine answered ${answers.length} of ${this.#asked} and was gone`);
    const stood = answers.filter(line => /^(accepted|refused)$/.test(line)).length;
    return { what: 'the same files, in the engine', unit: 'inputs', tried: this.#asked, stood, failures, note: `${answers.filter(line => line === 'accepted').length} accepted` };
  }
}

/** Lines of a journal, in and out of order, cut and glued; read whole and in two goes. */
async function journals({ size, seed }: Options, root: string, engine: Engine): Promise<Row> {
  const failures: string[] = [];
  const count = COUNTS[size];
  for (let input = 0; input < count; input++) {
    const documents = new Documents(new Random(seedOf(seed ^ 0x10c, input)));
    const { random } = documents;
    const lines = Array.from({ length: random.below(12) }, (_, i) => {
      const event = documents.make('RunEvent', random.pick<number>([0, 0, 0, 0.1]));
      const numbered = typeof event === 'object' && event !== null && !Array.isArray(event) ? { ...event, seq: random.chance(0.9) ? i + 1 : random.below(20) } : event;
      return documents.text(numbered, random.chance(0.08)).replaceAll(random.chance(0.9) ? '\n' : '\0', ' ');
    });
    const text = lines.join(random.chance(0.95) ? '\n' : '\r') + (random.chance(0.8) ? '\n' : '');
    const file = path.join(root, 'events.ndjson');
    await engine.ask('journal', text);
    try {
      const cut = random.below(text.length + 1);
      await writeFile(file, text.slice(0, cut));
      const journal = new Journal(file);
      await journal.read();
      const before = journal.summary.seq;
      await writeFile(file, text);
      await journal.read();
      if (journal.summary.seq < before && journal.problem === undefined) failures.push(`input ${input} of seed ${seed}: seq went from ${before} to ${journal.summary.seq}`);
      const { summary } = journal;
      if (summary.heal) rowsOf({ state: 'running' } as unknown as Parameters<typeof rowsOf>[0], summary.heal);
      if (summary.benchmark) report.tablesOf(summary.benchmark);
      if (summary.profile) new Figures(summary.profile);
    } catch (error) {
      failures.push(`input ${input} of seed ${seed}: ${error instanceof Error ? (error.stack ?? '').split('\n').slice(0, 3).join(' ') : String(error)}`);
    }
  }
  return { what: 'journals, in the extension', unit: 'inputs', tried: count, stood: count - failures.length, failures };
}

/** What a webview that was taken over could send: answered once each, or left out and told. */
async function toHost({ size, seed }: Options): Promise<Row> {
  const failures: string[] = [];
  let listener: (message: unknown) => void = () => undefined;
  const replies: unknown[] = [];
  let warned = 0;
  let acted = 0;
  const webview = { onDidReceiveMessage: (heard: typeof listener) => ((listener = heard), { dispose: () => undefined }), postMessage: (message: unknown) => Promise.resolve(replies.push(message)) };
  const log = { warn: () => warned++, error: () => undefined };
  answerRequests(webview as unknown as Parameters<typeof answerRequests>[0], 'a panel', log as unknown as Parameters<typeof answerRequests>[2], request => {
    acted++;
    if (!isWebviewRequest(request)) failures.push(`a request that is not valid was done: ${JSON.stringify(request)}`);
    return request.method === 'saveFile' ? Promise.reject(new Error('a panel that fails')) : Promise.resolve();
  });
  const count = COUNTS[size];
  for (let input = 0; input < count; input++) {
    const documents = new Documents(new Random(seedOf(seed ^ 0xeb, input)));
    listener(documents.make('WebviewRequest', documents.random.pick<number>([0, 0.1, 0.6])));
  }
  await new Promise(resolve => setImmediate(resolve));
  if (replies.length !== acted || acted + warned !== count) failures.push(`${count} messages: ${acted} done, ${replies.length} answered, ${warned} left out`);
  if (replies.some(reply => !isHostMessage(reply))) failures.push('a reply is not valid');
  return { what: 'messages of webviews to the extension', unit: 'inputs', tried: count, stood: count - failures.length, failures, note: `${acted} valid` };
}

/** What an extension of another version could send. */
async function toWebview({ size, seed }: Options): Promise<Row> {
  const failures: string[] = [];
  let listener: (event: { data: unknown }) => void = () => undefined;
  const given = globalThis as { window?: unknown };
  given.window = { addEventListener: (_: string, heard: typeof listener) => (listener = heard) };
  // By a name that tsc does not follow: that file is of the browser, whose types are not those of this project.
  const module: unknown = await import(pathToFileURL(path.join(import.meta.dirname, '../../webview/ui/channel.ts')).href);
  const { Channel } = module as { readonly Channel: new (host: object, onMessage: (message: Exclude<HostMessage, { type: 'reply' }>) => void) => unknown };
  const count = COUNTS[size];
  let valid = 0;
  const quiet = console.warn;
  console.warn = () => undefined;
  try {
    new Channel({ postMessage: () => undefined, getState: () => undefined, setState: () => undefined }, message => {
      valid++;
      if (!isHostMessage(message)) failures.push('a message that is not valid was handed on');
      if (message.type === 'compare') {
        figureRows(message.data);
        sortLayers(message.data.layers, { column: 'name', descending: false });
      } else if (message.type === 'benchmark') report.tablesOf(message.benchmark);
      else if (message.type === 'sensitivity') new Figures(message.profile);
    });
    for (let input = 0; input < count; input++) {
      const documents = new Documents(new Random(seedOf(seed ^ 0xbe, input)));
      try {
        listener({ data: documents.make('HostMessage', documents.random.pick<number>([0, 0, 0.05, 0.3])) });
      } catch (error) {
        failures.push(`input ${input} of seed ${seed}: ${error instanceof Error ? (error.stack ?? '').split('\n').slice(0, 3).join(' ') : String(error)}`);
      }
    }
  } finally {
    console.warn = quiet;
    delete given.window;
  }
  return { what: 'messages of the extension to webviews', unit: 'inputs', tried: count, stood: count - failures.length, failures, note: `${valid} valid` };
}
