import assert from 'node:assert/strict';
import { appendFile, mkdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { after, before, describe, it } from 'mocha';
import * as vscode from 'vscode';
import { type Layer, type Model, openModel } from '../../extension/checkpoint/index.ts';
import { spreadItems } from '../../extension/commands/copyCommand.ts';
import { earlierSpeed, healRequest } from '../../extension/commands/heal.ts';
import { budgetItems, trainedOf, deviceItems, type Hardware, healedName, lossItems, originalOf, parseWeights, sourceItems } from '../../extension/commands/healSteps.ts';
import { readyPlan } from '../../extension/commands/runPlan.ts';
import type { Api } from '../../extension/extension.ts';
import { readCompareData } from '../../extension/panels/compareData.ts';
import { RUN_VIEW_TYPE, viewOf } from '../../extension/panels/run.ts';
import type { HealResult, HealStepEvent, Lineage, RunEvent } from '../../extension/protocol/types.ts';
import { isHostMessage, isRunRequest } from '../../extension/protocol/validate.js';
import { identify } from '../../extension/runs/process.ts';
import { ModelNode } from '../../extension/views/modelNodes.ts';
import { treeItem, treeTooltip } from '../../extension/views/modelItems.ts';
import { api, temporary, until, workspaceFolder, writeCompressed, writeLlama, writeRun, writeStatus } from './fixtures.ts';

const { Separator } = vscode.QuickPickItemKind;
const time = '2026-01-01T00:00:00Z';
const hardware: Hardware = { device: 'cpu', cores: 2, devices: [{ device: 'cpu', name: 'CPU', memory: 8e9, memory_total: 16e9 }] };
const gpus = ['cuda:0', 'cuda:1'].map(device => ({ device, name: 'H100', memory: 70e9, memory_total: 80e9 }));
let extension: Api;
let place: Awaited<ReturnType<typeof temporary>>;
let model: Model;

function result(output: string): HealResult {
  return { kind: 'heal', output, stopped: 'budget', teacher_loss: 2, start_loss: 4, best_loss: 3, best_step: 5, steps: 6, tokens: 1000, trained: 240, parameters: 6816, logits_difference: 0, seconds: 3 };
}

function journal(...events: readonly object[]): string {
  return events.map((event, i) => `${JSON.stringify({ seq: i + 1, time, ...event })}\n`).join('');
}

const plan = { type: 'heal-plan', plan: { steps: 10, warmup_steps: 1, validate_every: 5, tokens_per_step: 1024, trained: 240, parameters: 6816 }, prompt: 'One', teacher_loss: 2 } satisfies Partial<RunEvent>;
const step = (number: number): Partial<HealStepEvent> => ({ type: 'heal-step', step: number, loss: 2, cross_entropy: 3, gradient: 1, learning_rate: 1e-4, tokens_per_second: 100, memory: { cpu: 1e9 } });

describe('Heal Model…', () => {
  before(async () => {
    extension = await api();
    place = await temporary();
    await writeLlama(path.join(place.folder, 'base'));
    model = await openModel(await writeCompressed(path.join(place.folder, 'small')));
  });
  after(() => place.remove());

  it('offers texts, and takes several with shares', () => {
    const scope = vscode.Uri.file(model.folder);
    assert.deepEqual(sourceItems(scope, ['builtin']).map(({ source }) => source), ['builtin', 'self']);
    assert.deepEqual(sourceItems(scope, ['/a/my.jsonl', 'org/name']).map(({ label }) => label), ['Built-in text', 'Text that the original writes', 'my.jsonl', 'data set org/name']);
    assert.deepEqual(parseWeights('2:1', 2), [2, 1]);
    assert.deepEqual(parseWeights('2, 1 0.5', 3), [2, 1, 0.5]);
    for (const text of ['', '2', '2:0', '2:x', '1:2:3']) {
      assert.equal(parseWeights(text, 2), undefined, text);
    }
  });

  it('says where the original is missed', () => {
    assert.equal(originalOf(model), path.join(place.folder, 'base'));
    assert.deepEqual(lossItems(originalOf(model)).map(({ value }) => value), [0.5, 1, 0]);
    assert.ok(lossItems(originalOf(model)).every(({ description }) => !description));
    assert.match(lossItems('/nowhere')[0]?.description ?? '', /not at/);
    assert.ok(!lossItems('/nowhere')[2]?.description);
  });

  it('turns what is typed into a budget, with what it is worth', () => {
    assert.match(budgetItems('', 100).find(({ label }) => label === '20 min')?.description ?? '', /^about 100 K tokens$/);
    assert.deepEqual(budgetItems('1', 100).map(({ value }) => value), [{ minutes: 1 }]);
    assert.equal(budgetItems('1M tokens', 100)[0]?.description, 'about 3 h');
    assert.match(budgetItems('20', undefined)[0]?.description ?? '', /timed when it starts/);
    assert.equal(budgetItems('many', 100)[0]?.value, undefined);
    assert.ok(budgetItems('', 100).every(({ kind }) => kind !== Separator));
  });

  it('offers all GPUs and each of them', () => {
    assert.deepEqual(deviceItems(gpus).map(({ value }) => value), [{ device: 'cuda', processes: 2 }, { device: 'cuda:0', processes: 1 }, { device: 'cuda:1', processes: 1 }]);
    assert.equal(deviceItems(gpus)[1]?.description, 'H100 · 70 GB free of 80 GB');
  });

  it('proposes a name that is free', async () => {
    assert.equal(healedName(model), 'small-healed');
    await mkdir(path.join(place.folder, 'small-healed'));
    assert.equal(healedName(model), 'small-healed-2');
    assert.equal(healedName({ name: 'small-healed', folder: path.join(place.folder, 'small-healed') }), 'small-healed-2');
    await rm(path.join(place.folder, 'small-healed'), { recursive: true });
  });

  it('asks the engine for exactly that', () => {
    const choices = { data: [{ data: 'builtin', weight: 2 }, { data: 'org/name', weight: 1 }], distill: 0.5, original: path.join(place.folder, 'base'), device: undefined, processes: 1, budget: { minutes: 1 }, name: 'new', measure: false } as const;
    const request = healRequest(model, { ...choices, data: [...choices.data] }, hardware, () => 100);
    assert.ok(isRunRequest(request), JSON.stringify(isRunRequest.errors));
    assert.equal(request.title, 'Heal small, 1 min');
    assert.deepEqual(request.options, {
      data: [{ data: 'builtin', weight: 2 }, { data: 'org/name', weight: 1 }],
      minutes: 1,
      length: 256,
      batch: 1,
      validations: 2,
      distill: 0.5,
      teacher: path.join(place.folder, 'base'),
      prompt: 'The capital of France is',
      output: path.join(place.folder, 'new'),
      evaluate: null,
    });
    const many = healRequest(model, { ...choices, data: [{ data: 'builtin' }], distill: 0, original: undefined, device: 'cuda', processes: 2, budget: { tokens: 1e6 }, measure: true }, { ...hardware, devices: gpus }, () => undefined);
    assert.ok(isRunRequest(many), JSON.stringify(isRunRequest.errors));
    assert.deepEqual([many.device, many.processes], ['cuda', 2]);
    assert.ok(many.options.teacher === undefined && many.options.evaluate?.length === 512 && many.options.batch === undefined);
  });

  it('refuses what has nothing to train, and counts what trains', async () => {
    assert.equal(trainedOf(model), 240);
    assert.equal(trainedOf(await openModel(path.join(place.folder, 'base'))), 0);
    const layers: Layer[] = ['3-bit', '2-bit + rank 5', 'rank 9, 16-bit', 'nf4'].map(scheme => ({ name: scheme, group: 'mlp', shape: [64, 32], dtype: 'U8', parameters: 2048, bytes: 768, state: 'quantized', scheme }));
    assert.equal(trainedOf({ blocks: [{ index: 0, name: 'model.layers.0', layers, other: [], parameters: 0, bytes: 0 }] }), (16 + 5 + 9) * (64 + 32));
  });
});

describe('a healing in the views', () => {
  const root = () => path.join(workspaceFolder(), '.bondwise', 'runs');
  let directory: string;
  const options = { data: [{ data: 'builtin' }], minutes: 20, output: '/models/healed' } as const;

  function tabs(): vscode.Tab[] {
    return vscode.window.tabGroups.all.flatMap(group => group.tabs).filter(({ input }) => input instanceof vscode.TabInputWebview && input.viewType.endsWith(RUN_VIEW_TYPE));
  }

  before(async () => {
    extension = await api();
    place = await temporary();
    const process_ = await identify(process.pid);
    assert.ok(process_);
    directory = await writeRun(root(), '20260101-000000-heal-000001', { kind: 'heal', title: 'Heal small, 20 min', model: '/models/small', options: { ...options, data: [...options.data] } }, { state: 'running', process: process_ });
    await writeFile(path.join(directory, 'events.ndjson'), journal({ type: 'started', engine: '1', torch: '2', device: 'cpu', resumed: false }, { type: 'heal-validation', step: 0, loss: 4, best: true, sample: 'a' }, plan, step(1), step(2)));
    await until('seen', () => (extension.runs.get(directory)?.summary.heal?.steps.length === 2 ? true : undefined));
  });
  after(async () => {
    await rm(directory, { recursive: true, force: true });
    await place.remove();
  });

  it('stand below its row, in figures', () => {
    const node = extension.runsTree.nodeOf(directory);
    const shown = new Map(extension.runsTree.getChildren(node).map(child => extension.runsTree.getTreeItem(child)).map(({ label, description }) => [label, description]));
    assert.equal(shown.get('Best so far'), 'perplexity 54.6 → 54.6, step 0');
    assert.equal(shown.get('Steps'), '2 of 10 · 1.0 K tokens each');
    assert.equal(shown.get('Trains'), '240 parameters (3.5%)');
    assert.equal(shown.get('Data'), 'the built-in text');
    assert.equal(earlierSpeed(extension.runs.runs, { parameters: 6816, original: 6816 }), 100);
    assert.equal(earlierSpeed([], { parameters: 1, original: 0 }), undefined);
  });

  it('have a panel, one a run, that is restored from the run directory', async () => {
    await vscode.commands.executeCommand('bondwise.showRunPanel', directory);
    await vscode.commands.executeCommand('bondwise.showRunPanel', directory);
    const [tab] = await until('a tab', () => (tabs().length === 1 ? tabs() : undefined));
    assert.equal(tab?.label, 'Heal small, 20 min');
    assert.deepEqual(extension.runPanels.open, [directory]);
    await vscode.window.tabGroups.close(tabs());
    await until('closed', () => (extension.runPanels.open.length === 0 ? true : undefined));
    const restored = vscode.window.createWebviewPanel(RUN_VIEW_TYPE, '', vscode.ViewColumn.One);
    await extension.runPanels.deserializeWebviewPanel(restored, { directory, table: true });
    assert.equal(restored.title, 'Heal small, 20 min');
    assert.match(restored.webview.html, /run\.js/);
    restored.dispose();
    const lost = vscode.window.createWebviewPanel(RUN_VIEW_TYPE, '', vscode.ViewColumn.One);
    let disposed = false;
    lost.onDidDispose(() => (disposed = true));
    await extension.runPanels.deserializeWebviewPanel(lost, { directory: 'relative' });
    assert.ok(disposed);
  });

  it('are told in messages that both sides accept', () => {
    const run = extension.runs.get(directory);
    assert.ok(run?.summary.heal);
    assert.ok(isHostMessage({ type: 'run', run: viewOf(run) }), JSON.stringify(isHostMessage.errors));
    assert.ok(isHostMessage({ type: 'heal', history: run.summary.heal, whole: true }), JSON.stringify(isHostMessage.errors));
    assert.ok(!isHostMessage({ type: 'heal', history: { steps: [{ step: 1 }] }, whole: true }));
    assert.equal(viewOf(run).device, 'cpu');
  });

  it('end early on request, once there is something to keep', async () => {
    await vscode.commands.executeCommand('bondwise.finishRun', directory);
    await stat(path.join(directory, 'finish'));
    const run = await until('told', () => (extension.runs.get(directory)?.finishing ? extension.runs.get(directory) : undefined));
    assert.equal(viewOf(run).stopping, true);
  });

  it('offer a command line for one process and for many', () => {
    const labels = (text: string, gpu = 0) => spreadItems(text, 1, gpu, ({ machines, processes }) => `${machines}x${processes}`).map(({ label, detail }) => `${label}: ${detail ?? ''}`);
    assert.deepEqual(labels(''), ['This machine, 1 process: 1x1', '2 machines, 1 process on each: 2x1']);
    assert.deepEqual(labels('', 4), ['This machine, 1 process: 1x1', 'This machine, 4 processes: 1x4', '2 machines, 4 processes on each: 2x4']);
    assert.deepEqual(labels('3x8'), ['3 machines, 8 processes on each: 3x8']);
    assert.match(labels('many')[0] ?? '', /no number of processes/);
  });

  it('leave a model that says so in the tree and in the comparison', async () => {
    const folder = await writeCompressed(path.join(place.folder, 'healed'));
    const file = path.join(folder, 'bondwise.json');
    const lineage = JSON.parse(await readFile(file, 'utf8')) as Lineage;
    await writeFile(file, JSON.stringify({ ...lineage, healing: [{ engine: '1', created: time, request: {}, result: result(folder) }] }));
    const node = new ModelNode({ folder, added: true, model: await openModel(folder) });
    assert.match(String(treeItem(node).description), /^healed · 93% of base/);
    assert.match(treeTooltip(node).value.replaceAll('&nbsp;', ' '), /perplexity 54\.6 → 20\.1 .*, 6 steps/);
    const data = await readCompareData(folder);
    assert.ok(isHostMessage({ type: 'compare', data }), JSON.stringify(isHostMessage.errors));
    assert.deepEqual([data.original.evaluation?.perplexity, data.compressed.evaluation?.perplexity, data.healed?.evaluation, data.healing?.best_step], [20, 25, null, 5]);
  });

  it('are shown as done, with what was won', async () => {
    await writeFile(path.join(directory, 'result.json'), JSON.stringify(result('/models/healed')));
    await appendFile(path.join(directory, 'events.ndjson'), `${JSON.stringify({ seq: 6, time, type: 'ended', state: 'done' })}\n`);
    await writeStatus(directory, { state: 'done' });
    await until('done', () => (extension.runs.get(directory)?.state === 'done' ? true : undefined));
    const shown = extension.runsTree.getChildren(extension.runsTree.nodeOf(directory)).map(child => extension.runsTree.getTreeItem(child));
    assert.equal(shown.find(({ label }) => label === 'Healed')?.description, 'perplexity 54.6 → 20.1 (original 7.39)');
  });
});

describe('a plan that heals', () => {
  const rules = { model: 'base', output: 'out', tensorize: [{ layers: ['*.up_proj'], keep: 0.5 }] };

  before(async () => {
    extension = await api();
    place = await temporary();
    await writeLlama(path.join(place.folder, 'base'));
    await writeFile(path.join(place.folder, 'words.jsonl'), '');
  });
  after(() => place.remove());

  const ready = (heal: object, more: object = {}) => readyPlan(JSON.stringify({ ...rules, ...more, heal }), path.join(place.folder, 'p.bondwise.json'), extension.models);

  it('becomes two runs, the second of what the first makes', async () => {
    const { heal, lines } = await ready({ minutes: 20, data: [{ data: 'words.jsonl' }], teacher: 'base' }, { evaluate: { sequences: 2 } });
    assert.ok(isRunRequest(heal), JSON.stringify(isRunRequest.errors));
    assert.ok(heal.kind === 'heal');
    assert.equal(heal.model, path.join(place.folder, 'out'));
    const { output, data, teacher, minutes, evaluate } = heal.options;
    assert.deepEqual([output, data, teacher, minutes, evaluate?.sequences], [path.join(place.folder, 'out-healed'), [{ data: path.join(place.folder, 'words.jsonl') }], path.join(place.folder, 'base'), 20, 2]);
    assert.match(lines.at(-1) ?? '', /^Then it is healed for 20 min on words\.jsonl; that model goes to .*out-healed\.$/);
    assert.equal((await readyPlan(JSON.stringify(rules), path.join(place.folder, 'p.bondwise.json'), extension.models)).heal, undefined);
  });

  it('is refused, with the line, where it cannot be meant', async () => {
    await assert.rejects(ready({}), /heal has no budget/);
    await assert.rejects(ready({ minutes: 1, tokens: 2 }), /heal has minutes and tokens/);
    await assert.rejects(ready({ minutes: 1, output: 'out' }), /would replace the compressed one/);
    await assert.rejects(ready({ minutes: 1, output: 'base' }), /is the original/);
    await assert.rejects(ready({ minutes: 1, data: [{ data: 'gone.txt' }] }), /there is no file/);
    await assert.rejects(ready({ minutes: 1, lengths: 2 }), /no key “lengths” in heal/);
  });
});
