import assert from 'node:assert/strict';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { after, before, describe, it } from 'mocha';
import * as vscode from 'vscode';
import { fingerprintOf, type Model, openModel } from '../../extension/checkpoint/index.ts';
import { planArguments, writePlan } from '../../extension/commands/plan.ts';
import { budgetItems, checkPlanName, exclusionItems, exclusionMessage, exclusionsText, methodItems } from '../../extension/commands/planSteps.ts';
import { readyPlan } from '../../extension/commands/runPlan.ts';
import { type Environment, findEnvironment } from '../../extension/engine/find.ts';
import { PlanError } from '../../extension/plan/planFile.ts';
import { isPlanResult, isRunRequest, isSensitivity } from '../../extension/protocol/validate.js';
import type { ExchangePoint, Sensitivity } from '../../extension/protocol/types.ts';
import { EMPTY_SUMMARY } from '../../extension/runs/fold.ts';
import type { Run } from '../../extension/runs/run.ts';
import { perplexityRange } from '../../extension/views/measured.ts';
import { runDetails } from '../../extension/views/runDetails.ts';
import { api, temporary, until, workspaceFolder, writeLlama } from './fixtures.ts';

const { Error: Wrong, Info } = vscode.InputBoxValidationSeverity;
let place: Awaited<ReturnType<typeof temporary>>;
let model: Model;
let profile: Sensitivity;
let profileFile: string;

/** A profile of every layer, whose curves fall from one nat to none. */
async function profileOf({ folder, name, blocks }: Model): Promise<Sensitivity> {
  const layers = blocks.flatMap(block =>
    block.layers.map(layer => {
      const [out = 0, inner = 0] = layer.shape;
      const column = layer.name.slice(block.name.length + 1);
      return { name: layer.name, block: block.index, column, group: layer.group, shape: [out, inner], parameters: out * inner, bytes: layer.bytes, out_modes: [1, out], in_modes: [inner, 1] };
    }),
  );
  const curves = layers.map(({ name: layer, shape: [out = 0, inner = 0] }) => {
    const chi = Array.from({ length: Math.min(out, inner) }, (_, i) => i + 1);
    const loss = chi.map(each => (1 - each / chi.length) ** 2);
    return { layer, chi, parameters: chi.map(each => each * (out + inner - each)), error: loss, plain: loss, input: loss, fisher: loss };
  });
  return {
    version: 1, engine: '0', created: '2026-01-01T00:00:00Z', model: { path: `../${name}`, name, fingerprint: await fingerprintOf(folder) },
    sites: 'low-rank', method: 'plain', data: 'builtin', text: '0', length: 8, sequences: 2, seed: 0, metric: 'perplexity', sizes: [0.5], sizes_are: 'keep',
    baseline: { loss: Math.log(20), perplexity: 20 }, layers, curves, cells: [], complete: true,
  };
}

async function engine(): Promise<Environment> {
  const folder = vscode.extensions.getExtension('bondwise.bondwise')?.extensionPath ?? '';
  const found = await findEnvironment({ engineDir: path.join(folder, 'engine'), setting: process.env.BONDWISE_TEST_PYTHON });
  assert.ok(found.python !== undefined, 'an engine is there');
  return found;
}

describe('Plan Compression…', () => {
  before(async () => {
    place = await temporary();
    model = await openModel(await writeLlama(path.join(place.folder, 'tiny')));
    profile = await profileOf(model);
    assert.ok(isSensitivity(profile), JSON.stringify(isSensitivity.errors));
    profileFile = path.join(place.folder, 'tiny.sensitivity.json');
    await writeFile(profileFile, JSON.stringify(profile));
  });
  after(() => place.remove());

  it('proposes exclusions with what they match', () => {
    const items = exclusionItems(profile, ['model.layers.0.*', '*.down_proj']);
    assert.deepEqual(items.map(({ pattern }) => pattern), [
      undefined, 'model.layers.0.*', '*.down_proj',
      undefined, 'model.layers.1.*', '*.self_attn.o_proj', '*.self_attn.q_proj', '*.mlp.down_proj', '*.mlp.up_proj',
    ]);
    assert.equal(items[1]?.description, '4 layers, 2.0 K parameters');
    assert.equal(items[2]?.description, '2 layers, 1.5 K parameters');
    assert.match(exclusionsText(profile, items.slice(0, 3)), /^Stay dense: 5 of 8 layers, 2\.8 K parameters/);
    assert.deepEqual(exclusionItems(profile, []).slice(0, 2).map(({ pattern }) => pattern), [undefined, 'model.layers.0.*']);
    assert.equal(exclusionMessage(model, '*.q_proj').severity, Info);
    assert.equal(exclusionMessage(model, '*.nothing').severity, Wrong);
    assert.equal(exclusionMessage(model, '').severity, Wrong);
  });

  it('shows what each budget would give, and what is wrong with the one that is typed', () => {
    const at = (parameters: number, loss: number): ExchangePoint => ({ parameters, bytes: 2 * parameters, loss, loss_error: loss / 10, perplexity: 20 * Math.exp(loss) });
    const exchange = { original_parameters: 10_000, original_bytes: 20_000, exchange: [at(10_000, 0), at(8000, 0.1), at(4712, 1)] };
    const items = budgetItems(exchange, '');
    assert.deepEqual(items.map(({ target }) => target), ['95%', '90%', '85%', '80%', '75%', '70%', '65%', '60%', '50%', '47.2%']);
    assert.equal(items[3]?.description, '8.0 K parameters · 16 kB');
    assert.equal(items[3].detail, `Predicted perplexity ${perplexityRange(20, 0.1, 0.01)}`);
    assert.match(items[3].detail, /22\.1 \(21\.9–22\.3\)/);
    for (const [text, target] of [['62.5%', '62.5%'], ['12 kB', '12 kB'], ['perplexity<30', 'perplexity<30']] as const) {
      assert.deepEqual(budgetItems(exchange, text).map(item => [item.target, item.alwaysShow]), [[target, true]]);
    }
    for (const [text, why] of [['40%', '47.2%'], ['perplexity<10', '20'], ['many', 'not a budget'], ['100%', 'asks for nothing'], ['0%', 'not a share']] as const) {
      const [item, ...rest] = budgetItems(exchange, text);
      assert.deepEqual([item?.target, rest], [undefined, []], text);
      assert.ok(item?.label.includes(why), `${text}: ${item?.label ?? ''}`);
    }
  });

  it('asks the engine in words that cannot be mistaken', () => {
    const wanted = { folder: '/m', profile: '/p', target: '60%' };
    assert.deepEqual(planArguments(wanted), ['plan', '/m', '--profile', '/p', '--budget=60%']);
    assert.deepEqual(planArguments({ ...wanted, exclude: [] }).slice(5), ['--exclude-nothing']);
    assert.deepEqual(planArguments({ ...wanted, exclude: ['-x', 'y'] }).slice(5), ['--exclude=-x', '--exclude=y']);
    assert.deepEqual(planArguments({ ...wanted, method: 'fisher' }).slice(5), ['--method', 'fisher']);
    assert.deepEqual(methodItems().map(({ method }) => planArguments({ ...wanted, method }).slice(5)), [['--method', 'fisher'], ['--method', 'sequential'], ['--method', 'plain']]);
    assert.deepEqual(planArguments({ ...wanted, method: 'fisher', calibration: 'self' }).slice(5), ['--method', 'fisher', '--calibration=self']);
  });

  it('checks the name of the file', async () => {
    await writeFile(path.join(place.folder, 'other.bondwise.json'), '{"no": "plan"}');
    await writeFile(path.join(place.folder, 'there.bondwise.json'), '{"model":"tiny","output":"o","tensorize":[{"layers":["*"],"chi":1}]} // mine');
    const severity = async (name: string) => (await checkPlanName(place.folder, name))?.severity;
    assert.equal(await severity('new'), undefined);
    assert.equal(await severity('new.bondwise.json'), undefined);
    assert.equal(await severity('there'), Info);
    for (const name of ['', '.bondwise.json', 'a/b', '.hidden', 'other']) {
      assert.equal(await severity(name), Wrong, name);
    }
  });

  it('writes a plan, and fills one that is there without touching the rest', async () => {
    const environment = await engine();
    const file = path.join(place.folder, 'small.bondwise.json');
    const wanted = { folder: model.folder, profile: profileFile, target: '85%', exclude: ['*.down_proj'] };
    const made = await writePlan(environment, wanted, file);
    assert.ok(isPlanResult(made));
    const text = await readFile(file, 'utf8');
    assert.equal(vscode.workspace.textDocuments.some(({ uri }) => uri.fsPath === file), false);
    await writeFile(file, text.replace('"tensorize"', '// keep an eye on these\n  "tensorize"').replace('"length": 512', '"length": 16'));
    const document = await vscode.workspace.openTextDocument(file);
    const again = await writePlan(environment, { ...wanted, target: '80%' }, file);
    assert.ok(again.parameters < made.parameters);
    assert.equal(again.output, file);
    assert.match(document.getText(), /\/\/ keep an eye on these\n {2}"tensorize"/);
    assert.match(document.getText(), /"target": "80%"/);
    assert.match(document.getText(), /"length": 16/);
    assert.equal(document.isDirty, false);
    const { request } = await readyPlan(document.getText(), file, (await api()).models);
    assert.equal(request.kind === 'tensorize' && request.options.tensorize.length, Object.keys(again.layers).length);
    await assert.rejects(writePlan(environment, { ...wanted, target: '1%' }, file), /cannot be reached/);
    const left = (await vscode.workspace.fs.readDirectory(vscode.Uri.file(place.folder))).filter(([name]) => name.startsWith('.'));
    assert.deepEqual(left, []);
  }).timeout(60_000);

  it('asks in steps, and opens the plan that it made', async () => {
    const { models } = await api();
    const settings = vscode.workspace.getConfiguration('bondwise');
    await settings.update('python', (await engine()).python, vscode.ConfigurationTarget.Global);
    const file = path.join(place.folder, 'tiny-95pct.bondwise.json');
    const apart = 'model.layers.1.self_attn.q_proj';
    let ended = false;
    const asked = vscode.commands.executeCommand('bondwise.planCompression', { folder: model.folder, profile: profileFile, exclude: [apart] }).then(() => {
      ended = true;
    });
    // What is proposed is taken, step by step, as soon as it is asked.
    await until(
      'the plan',
      () => {
        void vscode.commands.executeCommand('workbench.action.acceptSelectedQuickOpenItem');
        return ended ? true : undefined;
      },
      60_000,
    );
    await asked;
    assert.equal(vscode.window.activeTextEditor?.document.uri.fsPath, file);
    const { request } = await readyPlan(await readFile(file, 'utf8'), file, models);
    assert.ok(request.kind === 'tensorize');
    assert.ok(request.options.tensorize.every(rule => rule.method === 'fisher'), 'the proposed method');
    assert.equal(request.options.calibration?.data, 'builtin');
    const names = request.options.tensorize.flatMap(rule => rule.layers);
    assert.ok(names.length > 0 && names.every(name => name.startsWith('model.layers.1.') && !name.includes('down_proj') && name !== apart), names.join());
    await vscode.commands.executeCommand('workbench.action.closeActiveEditor');
    await settings.update('python', undefined, vscode.ConfigurationTarget.Global);
  }).timeout(70_000);
});

describe('Run Plan', () => {
  const PLAN = '{\n  // by hand\n  "model": "tiny",\n  "output": "out",\n  "tensorize": [\n    { "layers": ["*.q_proj"], "chi": 4 },\n    { "layers": ["model.layers.1.mlp.up_proj"], "keep": 0.5 }\n  ],\n  "predicted": { "parameters": 1, "bytes": 2, "loss": 0.1, "loss_error": 0.02, "perplexity": 22.1 },\n  "evaluate": { "data": "text.txt", "length": 16 },\n  "calibration": { "data": "learn.jsonl", "also": [{ "data": "text.txt", "weight": 2 }, { "data": "self" }], "sequences": 4 }\n}\n';
  let file: string;

  before(async () => {
    place = await temporary();
    model = await openModel(await writeLlama(path.join(place.folder, 'tiny')));
    file = path.join(place.folder, 'p.bondwise.json');
    await writeFile(path.join(place.folder, 'text.txt'), 'some text');
    await writeFile(path.join(place.folder, 'learn.jsonl'), '{"text": "some text"}');
    await mkdir(path.join(place.folder, 'taken'));
  });
  after(() => place.remove());

  it('asks the engine for exactly what the plan says, and shows it in figures', async () => {
    const { request, lines } = await readyPlan(PLAN, file, (await api()).models);
    assert.ok(isRunRequest(request), JSON.stringify(isRunRequest.errors));
    assert.ok(request.kind === 'tensorize');
    assert.deepEqual([request.model, request.options.output, request.title], [model.folder, path.join(place.folder, 'out'), 'Run plan p.bondwise.json']);
    assert.deepEqual(request.options.tensorize.map(rule => ({ ...rule })), [{ layers: ['*.q_proj'], chi: 4 }, { layers: ['model.layers.1.mlp.up_proj'], keep: 0.5 }]);
    assert.deepEqual({ ...request.options.evaluate }, { data: path.join(place.folder, 'text.txt'), length: 16 });
    assert.deepEqual({ ...request.options.calibration, also: request.options.calibration?.also?.map(text => ({ ...text })) }, {
      data: path.join(place.folder, 'learn.jsonl'),
      also: [{ data: path.join(place.folder, 'text.txt'), weight: 2 }, { data: 'self' }],
      sequences: 4,
    });
    assert.equal(request.options.predicted?.loss, 0.1);
    const shown = lines.join('\n');
    assert.match(shown, /3 of 8 layers of tiny become MPOs/);
    assert.match(shown, /\*\.q_proj: 2 layers/);
    // Of 7344 parameters 2 × (256 − 4·28) and 768 − 6·58 are saved.
    assert.match(shown, /7\.3 K → 6\.6 K parameters/);
    assert.match(shown, /22\.1 \(21\.7–22\.5\)/);
  });

  const wrong: readonly (readonly [string, string, number, RegExp])[] = [
    ['a key', PLAN.replace('"chi"', '"xi"'), 6, /no key “xi”/],
    ['a pattern', PLAN.replace('*.q_proj', '*.z_proj'), 6, /matches no layer/],
    ['the model', PLAN.replace('"tiny"', '"nowhere"'), 3, /nowhere/],
    ['the output', PLAN.replace('"out"', '"taken"'), 4, /taken/],
    ['the text', PLAN.replace('text.txt', 'none.txt'), 10, /none\.txt/],
    ['the calibration text', PLAN.replace('learn.jsonl', 'none.jsonl'), 11, /none\.jsonl/],
    ['another calibration text', PLAN.replace('"text.txt", "weight"', '"gone.txt", "weight"'), 11, /gone\.txt/],
    ['JSON', PLAN.replace('"output"', 'output'), 4, /not JSON/],
  ];
  wrong.forEach(([what, text, line, message]) =>
    it(`names the file and the line where ${what} is wrong`, async () => {
      await assert.rejects(readyPlan(text, file, (await api()).models), error => {
        assert.ok(error instanceof PlanError, String(error));
        assert.match(error.message, message);
        assert.ok(error.message.startsWith(`p.bondwise.json:${line}: `), error.message);
        return true;
      });
    }),
  );

  it('is checked by VS Code itself as it is typed', async () => {
    const inside = path.join(workspaceFolder(), 'typed.bondwise.json');
    await writeFile(inside, PLAN.replace('"chi": 4', '"chi": 0').replace('"keep"', '"keeep"'));
    const document = await vscode.workspace.openTextDocument(inside);
    assert.equal(document.languageId, 'jsonc');
    await vscode.window.showTextDocument(document);
    const found = await until('diagnostics', () => {
      const all = vscode.languages.getDiagnostics(document.uri);
      return all.length >= 2 ? all : undefined;
    });
    assert.deepEqual([...new Set(found.map(({ range }) => range.start.line + 1))].sort(), [6, 7]);
    await vscode.commands.executeCommand('workbench.action.closeActiveEditor');
    await vscode.workspace.fs.delete(vscode.Uri.file(inside));
  });

  it('shows what was predicted beside what is measured', async () => {
    const { request } = await readyPlan(PLAN, file, (await api()).models);
    const run: Run = { id: 'planned', directory: place.folder, state: 'running', title: '', created: '', request, summary: EMPTY_SUMMARY };
    const row = (of: Run) => runDetails(of).find(({ id }) => id === 'predicted');
    // Of the profile's text, until the run has measured the original on its own.
    assert.equal(row(run)?.description, 'perplexity 22.1 (21.7–22.5)');
    const original = { data: 'builtin', perplexity: 10, standard_error: 1, tokens: 1, tokens_per_second: 1, prompt: '', sample: '' };
    assert.equal(row({ ...run, summary: { ...EMPTY_SUMMARY, evaluations: { original } } })?.description, 'perplexity 11.1 (10.8–11.3)');
    assert.ok(request.kind === 'tensorize');
    assert.equal(row({ ...run, request: { ...request, options: { ...request.options, predicted: null } } }), undefined);
  });
});
