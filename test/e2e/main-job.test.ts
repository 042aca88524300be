/** The main job as a user does it: open a model, right-click a layer, get a smaller model that runs. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFile, stat } from 'node:fs/promises';
import path from 'node:path';
import { after, test } from 'node:test';
import { promisify } from 'node:util';
import { isLineage } from '../../extension/protocol/validate.js';
import { assertAccessible } from './axe.ts';
import { Bondwise, runTimeout } from './bondwise.ts';
import { addSampleModel, enginePython, openSession, readRuns, sampleName, waitForRun } from './setup.ts';

const layer = 'mlp.gate_proj';
const title = /^Tensorize .*gate_proj.*50%, /;

let output: string;

// Less text than by default: the figures are checked elsewhere.
const session = await openSession(addSampleModel, { 'bondwise.evaluation.length': 256, 'bondwise.evaluation.sequences': 2 });
after(() => session.end());
const { window } = session;
const bondwise = new Bondwise(window);

void test('the model of the workspace stands in the view with its blocks and layers', async () => {
  await bondwise.open();
  await bondwise.described(bondwise.model(sampleName), /13\d M · 269 MB · BF16/);
  const row = await bondwise.openPath(sampleName, 'Block 14', layer);
  await bondwise.described(row, /\d MB · \d.*% · 1536×576/);
  await window.shotInThemes('layers');
});

void test('Tensorize… shows what each choice makes, and refuses what cannot be', async () => {
  const row = await bondwise.openPath(sampleName, 'Block 14', layer);
  await window.contextQuestion(row, 'Tensorize…', '2 sites', 'menu-dark');
  await window.quickInputTitle(`Tensorize model.layers.14.${layer}`);
  const name = await bondwise.answerTensorize({ sites: '2 sites', size: '50%' }, 'steps');
  await window.quickInputBox().fill(sampleName);
  await window.quickInput().locator('.quick-input-message', { hasText: 'is the original' }).waitFor();
  await window.type(name);
  output = path.join(session.folder, name);
});

void test('the run goes on while the window is reloaded', async () => {
  await bondwise.run(title).waitFor({ timeout: 60_000 });
  const before = await waitForRun(session.folder, (status) => status.state === 'running', 120_000);
  await window.statusBarItem(/\d+%|Load|Measur|Compress|Tensoriz|Check|Running/).first().waitFor();
  await window.shotInThemes('running');
  await window.reload();
  await bondwise.open();
  await bondwise.run(title).waitFor({ timeout: 60_000 });
  const [after] = (await readRuns(session.folder)).values();
  assert.equal(after?.state, 'running', 'it still runs when the window is back');
  assert.deepEqual(after.process, before.process, 'and it is the same process');
  await window.shotInThemes('running-after-reload');
});

void test('it finishes, and the smaller model stands beside the original', async () => {
  await waitForRun(session.folder, (status) => status.state === 'done', runTimeout);
  await bondwise.described(bondwise.run(title), /Done in/);
  await bondwise.described(bondwise.model(path.basename(output)), new RegExp(`\\d+% of ${sampleName}`));
  const row = await bondwise.openPath(path.basename(output), 'Block 14', layer);
  await bondwise.described(row, /50% kept · .*χ \d+/);
  await window.shotInThemes('done');
});

void test('Compare With Original shows both', async () => {
  await window.contextMenu(await bondwise.openPath(path.basename(output)), 'Compare With Original');
  const frame = await window.webviewFrame('h1');
  assert.equal(await frame.locator('h1').textContent(), path.basename(output));
  const text = await frame.locator('main').innerText();
  assert.match(text, /Perplexity/i);
  assert.match(text, /Paris/);
  await assertAccessible(window, () => window.webviewFrame('h1'));
  // Each change reloads the window: the panel comes back by itself.
  for (const theme of ['light', 'contrast', 'dark'] as const) {
    await window.setTheme(session.server, theme);
    const restored = await window.webviewFrame('h1');
    await restored.getByText('Perplexity').first().waitFor();
    await bondwise.open();
    await bondwise.openPath(path.basename(output), 'Block 14', layer);
    await window.shot(`compare-${theme}`);
  }
});

void test('the new folder runs in plain transformers and writes the same text', async () => {
  const lineage: unknown = JSON.parse(await readFile(path.join(output, 'bondwise.json'), 'utf8'));
  assert.ok(isLineage(lineage) && lineage.result);
  const { compressed, original } = lineage.result;
  assert.ok(compressed && original);
  assert.ok(compressed.perplexity < 1.2 * original.perplexity, `perplexity ${original.perplexity} → ${compressed.perplexity}`);
  const environment = { ...process.env, PYTHONPATH: undefined, HF_HUB_OFFLINE: '1', HF_MODULES_CACHE: path.join(session.server.directory, 'modules') };
  const script = path.join(import.meta.dirname, 'plain_transformers.py');
  const { stdout } = await promisify(execFile)(await enginePython(), [script, output, compressed.prompt], { cwd: session.server.directory, env: environment });
  const loaded: unknown = JSON.parse(stdout.trimEnd().split('\n').at(-1) ?? '');
  assert.deepEqual(loaded, {
    layer: ['cores', 'cores.0', 'cores.1'],
    missing: [],
    unexpected: [],
    text: `${compressed.prompt}${compressed.sample}`,
  });
  const [before, after] = await Promise.all([sampleName, path.basename(output)].map((name) => stat(path.join(session.folder, name, 'model.safetensors'))));
  assert.ok(before && after && after.size < before.size - 800_000, 'half of a layer of 1.77 MB is gone from the file');
});

void test('nothing was blocked and no page failed', () => assert.deepEqual(window.problems, []));
