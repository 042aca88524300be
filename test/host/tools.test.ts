import assert from 'node:assert/strict';
import { readdir, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { after, before, describe, it } from 'mocha';
import * as vscode from 'vscode';
import { EngineCommands } from '../../extension/commands/engine.ts';
import type { Api } from '../../extension/extension.ts';
import { benchmarkTool } from '../../extension/tools/benchmarking.ts';
import { healTool } from '../../extension/tools/healing.ts';
import { quantizeTool } from '../../extension/tools/quantizing.ts';
import { planTool, profileTool, runPlanTool, tensorizeTool, type WorkingParts } from '../../extension/tools/working.ts';
import { api, until, workspaceFolder, writeLlama } from './fixtures.ts';

let extension: Api;
let folder: string;
let parts: WorkingParts;

/** What a language model would get. */
async function answer(name: string, input: object): Promise<unknown> {
  const { content } = await vscode.lm.invokeTool(name, { input, toolInvocationToken: undefined });
  const [first] = content;
  assert.ok(first instanceof vscode.LanguageModelTextPart);
  return JSON.parse(first.value);
}

const none = new vscode.CancellationTokenSource().token;

describe('the tools for language models', () => {
  before(async () => {
    extension = await api();
    folder = await writeLlama(path.join(workspaceFolder(), 'tiny-tools'));
    await extension.models.refresh();
    await until('the model', () => extension.models.get(folder)?.model);
    const state = { get: () => undefined, update: () => Promise.resolve(), keys: () => [] } as unknown as vscode.Memento;
    const { extensionUri, extensionPath } = vscode.extensions.getExtension('bondwise.bondwise') ?? assert.fail();
    const log = vscode.window.createOutputChannel('Tools test', { log: true });
    parts = {
      context: { workspaceState: state, extensionPath } as vscode.ExtensionContext,
      models: extension.models,
      profiles: extension.profiles,
      runs: extension.runs,
      engine: new EngineCommands(path.join(extensionPath, 'engine'), extension.runs, log),
      storage: extensionUri,
      showRun: () => Promise.resolve(),
    };
    await vscode.workspace.getConfiguration('bondwise').update('python', process.env.BONDWISE_TEST_PYTHON, vscode.ConfigurationTarget.Global);
  });
  after(async () => {
    parts.engine.dispose();
    await vscode.workspace.getConfiguration('bondwise').update('python', undefined, vscode.ConfigurationTarget.Global);
    await rm(folder, { recursive: true, force: true });
    await extension.models.refresh();
  });

  it('are those of the manifest, each with a schema of its input', () => {
    const manifest = vscode.extensions.getExtension('bondwise.bondwise')?.packageJSON as { contributes: { languageModelTools: readonly { name: string; inputSchema: { type?: string } }[] } };
    const declared = manifest.contributes.languageModelTools;
    assert.deepEqual(
      vscode.lm.tools.filter(({ name }) => name.startsWith('bondwise_')).map(({ name }) => name).sort(),
      declared.map(({ name }) => name).sort(),
    );
    assert.ok(declared.every(({ inputSchema }) => inputSchema.type === 'object'));
  });

  it('list models and their layers', async () => {
    const models = (await answer('bondwise_list_models', {})) as { name: string; parameters: number; layers: number }[];
    assert.equal(models.find(({ name }) => name === 'tiny-tools')?.layers, 8);
    const { layers } = (await answer('bondwise_list_layers', { model: 'tiny-tools', layers: ['*.down_proj'] })) as { layers: { name: string; shape: number[]; state: string }[] };
    assert.deepEqual(layers.map(({ name }) => name), ['model.layers.0.mlp.down_proj', 'model.layers.1.mlp.down_proj']);
    assert.deepEqual(layers[0]?.shape, [16, 48]);
  });

  it('say what is wrong with what they are given', async () => {
    await assert.rejects(answer('bondwise_list_layers', { model: 'nothing-of-that-name' }), /no model “nothing-of-that-name”.*tiny-tools/);
    await assert.rejects(answer('bondwise_list_layers', { model: 'tiny-tools', layers: ['*.nothing'] }), /nothing/);
    await assert.rejects(answer('bondwise_list_layers', { folder }), /input of bondwise_list_layers is not right/);
    await assert.rejects(answer('bondwise_read_profile', { model: folder }), /no sensitivity profile yet/);
    await assert.rejects(answer('bondwise_run_status', { run: 'none-such' }), /There is no run none-such/);
  });

  it('show what a compression makes before it is begun', async () => {
    const confirmed = await tensorizeTool(parts).confirm?.({ model: 'tiny-tools', layers: ['*.up_proj'], size: '50%' });
    assert.equal(confirmed?.title, 'Tensorize 2×up_proj of tiny-tools?');
    const text = confirmed.lines.join('\n');
    assert.match(text, /2 layers, method fisher: 1\.5 K → 696 parameters \(45% kept\)/);
    assert.match(text, /tiny-tools-up_proj-50pct/);
    assert.match((await profileTool(parts).confirm?.({ model: 'tiny-tools', measured: true }))?.lines.join('\n') ?? '', /8 layers at 4 sizes: 32 measurements/);
    await assert.rejects(async () => tensorizeTool(parts).confirm?.({ model: 'tiny-tools', layers: ['*.up_proj'], size: 'much' }), /much/);
    await assert.rejects(async () => tensorizeTool(parts).confirm?.({ model: 'tiny-tools', layers: ['*.up_proj'], size: '50%', name: '../out' }), /not a folder name/);
    await assert.rejects(async () => healTool(parts).confirm?.({ model: 'tiny-tools' }), /has nothing that heals/);
    await assert.rejects(async () => planTool(parts).confirm?.({ model: 'tiny-tools', budget: '80%' }), /no sensitivity profile yet/);
    await assert.rejects(async () => runPlanTool(parts).confirm?.({ plan: 'none.bondwise.json' }), /none\.bondwise\.json cannot be read/);
  });

  it('show what quantizing and measuring take before they are begun', async () => {
    const quantized = await quantizeTool(parts).confirm?.({ model: 'tiny-tools', scheme: 'int8', layers: ['*.up_proj'] });
    assert.equal(quantized?.title, 'Quantize 2×up_proj of tiny-tools?');
    assert.match(quantized.lines.join('\n'), /2 layers, int8: \d+(\.\d)? kB → \d+(\.\d)? kB \(\d+%\) · \d+\.\d\d bits in these layers\.\nNo text is needed: that takes seconds\.\nThe new folder is .*tiny-tools-int8; the original stays\./);
    const budget = await quantizeTool(parts).confirm?.({ model: 'tiny-tools', scheme: '3.5bits', measure: false });
    assert.match(budget?.lines.join('\n') ?? '', /8 layers, 3\.5bits: .*3\.50 bits[^]*takes minutes[^]*tiny-tools-3-5bits[^]*Nothing will be measured/);
    await assert.rejects(async () => quantizeTool(parts).confirm?.({ model: 'tiny-tools', scheme: 'tiny' }), /“tiny” is not a size.*int8, nf4/);
    await assert.rejects(async () => quantizeTool(parts).confirm?.({ model: 'tiny-tools', scheme: 'int8', name: 'tiny-tools' }), /is the original/);
    const measured = await benchmarkTool(parts).confirm?.({ models: ['tiny-tools'], tasks: ['arc_easy', 'boolq'], limit: 50 });
    assert.equal(measured?.title, 'Benchmark tiny-tools?');
    assert.match(measured.lines.join('\n'), /tiny-tools: \d\.\d K, [^]*2 tasks \(arc_easy, boolq\) with at most 50 items each: up to 100 items in all[^]*tiny-tools\.benchmark\.json/);
    await assert.rejects(async () => benchmarkTool(parts).confirm?.({ models: ['tiny-tools', 'none-such'] }), /no model “none-such”/);
  });

  it('are all there to be invoked, and those that work ask for their input first', async () => {
    for (const { name } of vscode.lm.tools.filter(tool => tool.name.startsWith('bondwise_'))) {
      if (!['bondwise_list_models', 'bondwise_run_status'].includes(name)) {
        await assert.rejects(answer(name, {}), new RegExp(`input of ${name} is not right`));
      }
    }
    assert.ok(Array.isArray(((await answer('bondwise_run_status', {})) as { runs: unknown }).runs));
  });

  it('start a run whose status is told', async () => {
    const started = (await tensorizeTool(parts).run({ model: 'tiny-tools', layers: ['*.up_proj'], size: '4', method: 'plain', measure: false }, none)) as { run: string; output: string };
    assert.match(started.output, /tiny-tools-up_proj-chi4$/);
    const told = (await answer('bondwise_run_status', { run: started.run })) as { id: string; title: string };
    assert.equal(told.id, started.run);
    assert.equal(told.title, 'Tensorize 2×up_proj, χ 4');
    await until('its end', () => extension.runs.runs.find(({ id, state }) => id === started.run && ['done', 'failed'].includes(state)), 60_000);
    const { runs } = (await answer('bondwise_run_status', {})) as { runs: { id: string; state: string; problem?: string }[] };
    // The weights of this model are zeros without a tokenizer: that the engine got to work and its end is told is what matters here.
    assert.ok(runs.some(({ id, state, problem }) => id === started.run && (state === 'done' || (problem ?? '') !== '')));
    assert.ok((await readdir(workspaceFolder())).every(entry => !entry.startsWith('.new-')));
  }).timeout(90_000);

  it('and plans are tasks, which the engine does in a terminal', async () => {
    const plan = path.join(workspaceFolder(), 'tiny-tools.bondwise.json');
    await writeFile(plan, JSON.stringify({ version: 1, model: 'tiny-tools', output: 'tiny-task', tensorize: [{ layers: ['*.up_proj'], chi: 4 }] }));
    const [task] = (await vscode.tasks.fetchTasks({ type: 'bondwise' })).filter(({ definition }) => definition.plan === 'tiny-tools.bondwise.json');
    await rm(plan);
    const execution = task?.execution;
    assert.ok(execution instanceof vscode.ProcessExecution);
    assert.deepEqual(execution.args.slice(-4), ['-m', 'bondwise', 'run', plan]);
    assert.ok(execution.options?.env?.PYTHONPATH?.includes('engine'));
  });
});
