/** From a right-click to a report: a block in 4 bits, then original, compressed and quantized model on a little data, and Markdown out of it. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdir, readFile, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { after, test } from 'node:test';
import { promisify } from 'node:util';
import { isBenchmark } from '../../extension/protocol/validate.js';
import { assertAccessible } from './axe.ts';
import { Bondwise, runTimeout } from './bondwise.ts';
import { projectRoot } from '../../extension/scripts/project.ts';
import { addSampleModel, enginePython, eventually, openSession, readRuns, sampleName } from './setup.ts';

const small = `${sampleName}-small`;
const quantized = `${sampleName}-nf4`;
const session = await openSession(fill, {
  'bondwise.evaluation.length': 64,
  'bondwise.evaluation.sequences': 2,
  'bondwise.benchmark.tasks': ['boolq'],
  'bondwise.benchmark.datasets': 'data',
});
after(() => session.end());
const { window } = session;
const bondwise = new Bondwise(window);
const file = path.join(session.folder, `${sampleName}.benchmark.json`);

/** Opens the model's row, or closes it. */
async function twistie(name: string): Promise<void> {
  await (await bondwise.openPath(name)).locator('.monaco-tl-twistie').click();
}

async function done(kind: string): Promise<boolean> {
  return [...(await readRuns(session.folder)).entries()].some(([name, { state }]) => name.includes(`-${kind}-`) && state === 'done');
}

/** The sample model, a compressed one beside it, and BoolQ under its hub id, as a folder of data sets has it. */
async function fill(workspace: string): Promise<void> {
  await addSampleModel(workspace);
  const args = ['-m', 'bondwise', 'tensorize', sampleName, '--layers', '*.2[0-9].self_attn.q_proj', '--keep', '0.5', '--output', small];
  await promisify(execFile)(await enginePython(), args, { cwd: workspace, env: { ...process.env, PYTHONPATH: path.join(projectRoot, 'engine') } });
  const folder = path.join(workspace, 'data/aps/super_glue');
  await mkdir(folder, { recursive: true });
  const rows = Array.from({ length: 24 }, (_, n) => JSON.stringify({ question: `is ${n} an even number`, passage: `The number ${n} is ${n % 2 ? 'odd' : 'even'}.`, idx: n, label: (n + 1) % 2 }));
  for (const split of ['train', 'validation']) {
    await writeFile(path.join(folder, `${split}.jsonl`), `${rows.join('\n')}\n`);
  }
  await writeFile(path.join(folder, 'README.md'), '---\nconfigs:\n- config_name: boolq\n  data_files:\n  - split: train\n    path: train.jsonl\n  - split: validation\n    path: validation.jsonl\n---\n');
}

void test('Quantize… shows what each choice makes of a block, and makes it', async () => {
  await bondwise.open();
  const row = await bondwise.openPath(sampleName, 'Block 14');
  await window.contextQuestion(row, 'Quantize…', '4 bits, nf4');
  await window.shotInThemes('quantize-schemes');
  await window.type('3.5 bits');
  await window.quickInput().locator('.quick-input-message', { hasText: 'folder in' }).waitFor();
  assert.equal(await window.quickInputBox().inputValue(), `${sampleName}-3-5bits`);
  await window.quickInput().getByRole('button', { name: 'Back' }).click();
  await window.pickRow('4 bits, nf4').click();
  await window.quickInput().locator('.quick-input-message', { hasText: 'folder in' }).waitFor();
  await window.quickInput().getByRole('button', { name: 'Do not measure' }).click();
  await window.quickInput().locator('.quick-input-message', { hasText: 'Nothing will be measured' }).waitFor();
  await window.shotInThemes('quantize-name');
  assert.equal(await window.quickInputBox().inputValue(), quantized);
  await window.quickInputBox().press('Enter');
  await eventually(() => done('quantize'), runTimeout, 'the block is quantized');
  // Of two models that are open, rows have the same names.
  await twistie(sampleName);
  await bondwise.described(await bondwise.openPath(quantized, 'Block 14', 'mlp.gate_proj'), /nf4/);
  await window.shotInThemes('quantized');
  await twistie(quantized);
});

void test('Export… offers what is lost and what is not, of compressed and of quantized models', async () => {
  for (const [name, shot] of [[small, 'export'], [quantized, 'export-quantized']] as const) {
    await window.contextQuestion(await bondwise.openPath(name), 'Export…', 'Dense weights, base architecture');
    await window.shotInThemes(shot);
    await window.quickInputBox().press('Escape');
    await window.quickInput().waitFor({ state: 'hidden' });
  }
});

void test('Benchmark Models… asks, and shows the report at once', async () => {
  await bondwise.model(small).waitFor();
  await window.runCommand('Bondwise: Benchmark Models…');
  await window.quickInputTitle('Benchmark');
  await window.shotInThemes('benchmark-models');
  await window.quickInputBox().press('Enter');
  await window.pickRow('boolq').waitFor({ timeout: 60_000 });
  await window.shot('benchmark-tasks-dark');
  await window.quickInputBox().press('Enter');
  await window.pickRow('20 items of each task').click();
  await window.type('0');
  await window.pickRow('data').click();
  await window.pickRow('Perplexity').waitFor();
  await window.shotInThemes('benchmark-what');
  // Minutes of a small machine, which the engine's own tests spend.
  await window.pickRow('Training step').click();
  await window.quickInputBox().press('Enter');
  const frame = await window.webviewFrame('main', 180_000);
  await frame.getByRole('heading', { name: `Benchmark ${sampleName}` }).waitFor({ timeout: runTimeout });
});

void test('the report fills, and its figures are the file’s', async () => {
  await eventually(() => done('benchmark'), runTimeout, 'the benchmark is done');
  const report: unknown = JSON.parse(await readFile(file, 'utf8'));
  assert.ok(isBenchmark(report) && report.complete);
  const [original, compressed, inBits] = [sampleName, small, quantized].map(name => report.models?.find(model => model.name === name));
  assert.ok(original && compressed && inBits);
  assert.equal(report.original, original.weights);
  assert.ok(compressed.bytes < original.bytes && compressed.mpo_layers === 10);
  assert.equal(inBits.scheme, 'nf4');
  for (const model of [original, compressed, inBits]) {
    assert.equal(model.bytes, (await stat(path.join(session.folder, model.name, 'model.safetensors'))).size);
    assert.equal(model.tasks?.[0]?.items, 20);
    assert.equal(model.tasks[0].chance, 0.5);
  }
  assert.ok(compressed.speed?.decode.ratio && !compressed.speed.training);
  const frame = await window.webviewFrame('main');
  await frame.getByRole('cell', { name: '50.0' }).first().waitFor();
  await assertAccessible(window, () => window.webviewFrame('main'));
  for (const theme of ['light', 'contrast', 'dark'] as const) {
    await window.setTheme(session.server, theme);
    await window.tab(path.basename(file)).click();
    await window.webviewFrame('main');
    await window.shot(`report-${theme}`);
  }
});

void test('its Markdown has the tables', async () => {
  const frame = await window.webviewFrame('main');
  await frame.getByRole('button', { name: 'Export' }).click();
  await frame.getByRole('menuitem', { name: 'Markdown…' }).click();
  await window.quickInputBox().waitFor();
  await window.quickInputBox().press('Enter');
  const made = path.join(session.folder, `${sampleName}.md`);
  await eventually(async () => (await readFile(made, 'utf8').catch(() => '')).includes('## Quality'), 30_000, 'the Markdown is written');
  const text = await readFile(made, 'utf8');
  assert.match(text, /\| Model \| Perplexity \| boolq \|/);
  assert.match(text, new RegExp(`\\| ${quantized} \\|`));
  assert.match(text, /\| Guessing \| {2}\| 50\.0 \|/);
});

void test('nothing was blocked and no page failed', () => assert.deepEqual(window.problems, []));
