/** From a profile to a plan to a smaller model: the heatmap fills while the window is reloaded, its selection is the tree's, and the plan runs. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { after, test } from 'node:test';
import type { Frame } from 'playwright-core';
import { isLineage, isPlanFile, isSensitivity } from '../../extension/protocol/validate.js';
import { assertAccessible } from './axe.ts';
import { Bondwise, runTimeout } from './bondwise.ts';
import { addSampleModel, eventually, openSession, readRuns, sampleName, waitForRun } from './setup.ts';

const heatmap = '[role="grid"]';
/** All seven layers of all thirty blocks, at two sizes: enough to be still at it after a reload. */
const cells = 420;

// Little text: what is measured is checked elsewhere.
const session = await openSession(addSampleModel, { 'bondwise.evaluation.length': 64, 'bondwise.evaluation.sequences': 2 });
after(() => session.end());
const { window } = session;
const bondwise = new Bondwise(window);
const profileFile = path.join(session.folder, `${sampleName}.sensitivity.json`);

/** Cells in the journal of the profile run. */
async function measured(): Promise<number> {
  const run = [...(await readRuns(session.folder)).keys()].find((name) => name.includes('-profile-')) ?? '';
  const text = await readFile(path.join(session.folder, '.bondwise/runs', run, 'events.ndjson'), 'utf8').catch(() => '');
  return text.split('\n').filter((line) => line.includes('"type":"cell"') || line.includes('"type": "cell"')).length;
}

/** Where a cell of the heatmap is drawn: below its column's label, beside its block's. */
async function clickCell(frame: Frame, block: number, column: string, modifiers: ('Control' | 'Shift')[] = []): Promise<void> {
  const row = await frame.locator(`[role="rowheader"][aria-label="Block ${block}"]`).boundingBox();
  const head = await frame.locator(`[role="columnheader"][aria-label="${column}"]`).boundingBox();
  assert.ok(row && head, `block ${block} and ${column} are in sight`);
  for (const key of modifiers) {
    await window.page.keyboard.down(key);
  }
  await window.page.mouse.click(head.x + head.width / 2, row.y + row.height / 2);
  for (const key of modifiers) {
    await window.page.keyboard.up(key);
  }
}

void test('Profile Sensitivity… asks what to find out, and shows the heatmap at once', async () => {
  await bondwise.open();
  await bondwise.model(sampleName).waitFor();
  await window.runCommand('Bondwise: Profile Sensitivity…');
  await window.quickInputTitle(`Profile ${sampleName}`);
  await window.shot('profile-what-dark');
  await window.pickRow('Measured').click();
  await window.pickRow('All 210 layers').click();
  await window.quickInput().locator('.quick-input-list', { hasText: 'cells' }).waitFor();
  await window.quickInputBox().fill('30%, 60%');
  await window.pickRow('60% 30%').waitFor();
  await window.shot('profile-sizes-dark');
  await window.quickInputBox().press('Enter');
  await window.pickRow('Perplexity').click();
  await window.pickRow(/[Bb]uilt-in/).click();
  await window.quickInput().locator('.quick-input-message').first().waitFor();
  await window.type('2');
  await bondwise.run(/^Profile /).waitFor({ timeout: 60_000 });
  const frame = await window.webviewFrame(heatmap, 180_000);
  await frame.locator('.run-text').waitFor({ timeout: 60_000 });
});

void test('cells fill in, and the view comes back after a reload in the middle', async () => {
  await eventually(async () => (await measured()) >= 20, runTimeout, '20 cells are measured');
  await window.shot('heatmap-filling-dark');
  const before = await waitForRun(session.folder, (status) => status.state === 'running', 60_000);
  await window.reload();
  const frame = await window.webviewFrame(heatmap, 60_000);
  await frame.getByRole('button', { name: 'Cancel' }).waitFor({ timeout: 60_000 });
  const now = await waitForRun(session.folder, (status) => status.state === 'running', 60_000);
  assert.deepEqual(now.process, before.process, 'and it is the same process');
  await waitForRun(session.folder, (status) => status.state === 'done', runTimeout);
  const profile: unknown = JSON.parse(await readFile(profileFile, 'utf8'));
  assert.ok(isSensitivity(profile) && profile.complete);
  assert.equal(profile.cells?.length, cells);
  assert.equal(profile.curves?.length, 210);
  assert.ok((profile.correlation ?? 0) > 0.5, `prediction and measurement go together: ${profile.correlation}`);
});

void test('cells that are selected are the tree’s selection, and the other way round', async () => {
  await bondwise.open();
  const frame = await window.webviewFrame(heatmap);
  await clickCell(frame, 3, 'mlp.up_proj');
  const selected = bondwise.models.locator('.monaco-list-row.selected');
  await selected.filter({ hasText: 'mlp.up_proj' }).waitFor();
  await clickCell(frame, 4, 'mlp.up_proj', ['Control']);
  await frame.getByText(/2 layers selected/).first().waitFor();
  await window.shot('heatmap-selected-dark');
  const lines = frame.locator('[aria-label="Lines"] li');
  await eventually(async () => (await lines.count()) === 2, 30_000, 'a curve for each');
  await selected.filter({ hasText: 'mlp.up_proj' }).waitFor();
  await (await bondwise.openPath(sampleName, 'Block 9')).click();
  await eventually(async () => (await lines.count()) === 7, 30_000, 'a curve for each layer of the block');
  await assertAccessible(window, () => window.webviewFrame(heatmap));
});

void test('Plan Compression… fills a plan to 80%, which is laid over the heatmap', async () => {
  await window.runCommand('Bondwise: Plan Compression…');
  await window.quickInputTitle(`Plan ${sampleName}`);
  await window.pickRow('Data-aware').waitFor({ timeout: 60_000 });
  await window.shot('plan-method-dark');
  await window.pickRow('Data-aware').click();
  await window.pickRow('*.mlp.down_proj').waitFor({ timeout: 60_000 });
  await window.shot('plan-exclude-dark');
  await window.quickInputBox().press('Enter');
  await window.pickRow('80%').waitFor({ timeout: 60_000 });
  await window.shot('plan-budget-dark');
  await window.quickInputBox().fill('80%');
  await window.pickRow('80%').click();
  await window.quickInput().locator('.quick-input-message', { hasText: 'Name of the plan' }).waitFor();
  await window.type('planned');
  await window.tab('planned.bondwise.json').waitFor({ timeout: 60_000 });
  const plan: unknown = JSON.parse(await readFile(path.join(session.folder, 'planned.bondwise.json'), 'utf8'));
  assert.ok(isPlanFile(plan) && plan.predicted && plan.tensorize);
  assert.ok(plan.tensorize.length > 20, 'a rule for each layer that is compressed');
  await window.shot('plan-file-dark');
});

void test('Run Plan makes the planned model, and shows predicted beside measured', async () => {
  await window.runCommand('Bondwise: Run Plan');
  await window.answerDialog('Run planned.bondwise.json?', 'Run');
  const run = async (): Promise<string> => [...(await readRuns(session.folder)).entries()].find(([name]) => name.includes('-tensorize-'))?.[1].state ?? '';
  await eventually(async () => (await run()) === 'done', runTimeout, 'the plan is done');
  const plan: unknown = JSON.parse(await readFile(path.join(session.folder, 'planned.bondwise.json'), 'utf8'));
  assert.ok(isPlanFile(plan) && plan.tensorize);
  const lineage: unknown = JSON.parse(await readFile(path.join(session.folder, plan.output, 'bondwise.json'), 'utf8'));
  assert.ok(isLineage(lineage) && lineage.result);
  const { parameters, original_parameters } = lineage.result;
  assert.ok(parameters <= 0.8 * original_parameters && parameters > 0.78 * original_parameters, `${parameters} of ${original_parameters} parameters`);
  assert.equal(parameters, plan.predicted?.parameters);
  assert.ok(lineage.result.layers.every(layer => layer.method === 'fisher' && (layer.loss ?? 0) > 0));
  await bondwise.open();
  await bondwise.described(await bondwise.openPath(path.basename(plan.output)), /80% of/);
  for (const theme of ['light', 'contrast', 'dark'] as const) {
    await window.setTheme(session.server, theme);
    await window.tab(`${sampleName}.sensitivity.json`).click();
    await window.webviewFrame(heatmap);
    await window.shot(`heatmap-${theme}`);
  }
});

void test('nothing was blocked and no page failed', () => assert.deepEqual(window.problems, []));
