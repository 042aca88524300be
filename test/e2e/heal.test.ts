/** A compressed model is healed for a minute: curves, a reload, cancelled, resumed, done, and the new model stands in the tree. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { after, test } from 'node:test';
import type { Frame } from 'playwright-core';
import { isLineage, isRunEvent } from '../../extension/protocol/validate.js';
import type { RunEvent } from '../../extension/protocol/types.ts';
import { assertAccessible } from './axe.ts';
import { Bondwise, runTimeout } from './bondwise.ts';
import { addCompressedModel, eventually, openSession, readRuns, sampleName, waitForRun } from './setup.ts';

const small = 'small';
const title = /^Heal small, 1 min, /;
const charts = '.charts canvas';
let healed: string;

// Little is measured: these tests are about the run, not about its figures.
const session = await openSession((folder) => addCompressedModel(folder, small), { 'bondwise.evaluation.length': 64, 'bondwise.evaluation.sequences': 2 });
after(() => session.end());
const { window } = session;
const bondwise = new Bondwise(window);

async function events(): Promise<readonly RunEvent[]> {
  const [run = ''] = (await readRuns(session.folder)).keys();
  const text = await readFile(path.join(session.folder, '.bondwise/runs', run, 'events.ndjson'), 'utf8').catch(() => '');
  return text.split('\n').flatMap((line) => {
    const event: unknown = line === '' ? undefined : JSON.parse(line);
    return isRunEvent(event) ? [event] : [];
  });
}

async function steps(): Promise<readonly number[]> {
  return (await events()).flatMap((event) => (event.type === 'heal-step' ? [event.step] : []));
}

/** The value of a figure of the panel, by its name. */
function tile(frame: Frame, name: string) {
  return frame.locator('.tiles > div', { has: frame.locator('dt', { hasText: name }) }).locator('.value');
}

void test('Heal Model… asks data, loss, budget and name, and opens the panel of its run', async () => {
  await bondwise.open();
  await bondwise.model(small).waitFor();
  await window.runCommand('Bondwise: Heal Model…');
  await window.quickInputTitle(`Heal ${small}`);
  const name = await bondwise.answerHeal('1', 'heal-steps');
  assert.equal(name, `${small}-healed`);
  healed = path.join(session.folder, name);
  await bondwise.run(title).waitFor({ timeout: 60_000 });
  const frame = await window.webviewFrame('.run-text', 60_000);
  await frame.getByText(/^Heal small/).first().waitFor();
});

void test('the curves grow, and come back by themselves after a reload', async () => {
  await eventually(async () => (await steps()).length > 0, runTimeout, 'a step is told');
  const before = await window.webviewFrame(charts, 60_000);
  await tile(before, 'Step').filter({ hasText: / of / }).waitFor();
  await window.shotInThemes('heal-running');
  const { process } = await waitForRun(session.folder, (status) => status.state === 'running', 60_000);
  await window.reload();
  const after = await window.webviewFrame(charts, 60_000);
  await tile(after, 'Step').filter({ hasText: / of / }).waitFor();
  const now = await waitForRun(session.folder, (status) => status.state === 'running', 60_000);
  assert.deepEqual(now.process, process, 'and it is the same process');
});

void test('cancelled in the panel and resumed there, it goes on from the step where it stopped', async () => {
  const frame = await window.webviewFrame(charts);
  await frame.getByRole('button', { name: 'Cancel' }).click();
  await waitForRun(session.folder, (status) => status.state === 'cancelled', 60_000);
  await frame.getByText(/^Cancelled\. Resume goes on/).waitFor();
  await window.shot('heal-cancelled-dark');
  const last = (await steps()).at(-1) ?? 0;
  await frame.getByRole('button', { name: 'Resume' }).click();
  await eventually(async () => ((await steps()).at(-1) ?? 0) > last, runTimeout, 'a later step');
  assert.ok((await events()).filter((event) => event.type === 'started').length === 2);
  // Between the start and the end of the budget.
  await tile(frame, 'Perplexity').filter({ hasText: '→' }).waitFor({ timeout: runTimeout });
});

void test('Copy Command gives the line for several processes', async () => {
  const frame = await window.webviewFrame(charts);
  await frame.getByRole('button', { name: 'Copy Command' }).click();
  await window.pickRow('This machine, 1 process').waitFor({ timeout: 60_000 });
  await window.quickInputBox().fill('2x4');
  await window.pickRow('2 machines, 4 processes on each').waitFor();
  await window.shot('heal-command-dark');
  await window.quickInputBox().press('Enter');
  const copied = 'navigator.clipboard.readText()';
  await eventually(async () => /torchrun --nnodes 2 .* --nproc-per-node 4 -m bondwise start .*-heal-/.test(await window.page.evaluate<string>(copied)), 20_000, 'the line is in the clipboard');
});

void test('it finishes, and the healed model stands in the tree', async () => {
  await waitForRun(session.folder, (status) => status.state === 'done', runTimeout);
  const frame = await window.webviewFrame(charts);
  await frame.getByText(/^Done in .*the budget is used up/).waitFor();
  const lineage: unknown = JSON.parse(await readFile(path.join(healed, 'bondwise.json'), 'utf8'));
  assert.ok(isLineage(lineage));
  const [result, ...more] = (lineage.healing ?? []).map((healing) => healing.result);
  assert.ok(result && more.length === 0);
  assert.ok(result.best_loss < result.start_loss, `${result.start_loss} → ${result.best_loss}`);
  await frame.getByRole('button', { name: 'Compare' }).waitFor();
  await frame.getByText('Table', { exact: true }).click();
  await frame.locator('caption', { hasText: 'the latest first' }).waitFor();
  await window.shotInThemes('heal-table');
  await frame.getByText('Charts', { exact: true }).click();
  await assertAccessible(window, () => window.webviewFrame(charts));
  await bondwise.open();
  await bondwise.described(await bondwise.openPath(path.basename(healed)), new RegExp(`healed · \\d.*% of ${sampleName}`));
  await window.shotInThemes('heal-done');
});

void test('Compare shows original, compressed and healed', async () => {
  await window.contextMenu(bondwise.run(title), 'Compare With Original');
  const frame = await window.webviewFrame('.figures');
  const heads = await frame.locator('.figures thead tr > *').allInnerTexts();
  assert.deepEqual(heads, ['', 'Original', 'Compressed', 'Healed', 'Change']);
  assert.equal(await frame.locator('.samples figure').count(), 3);
  await window.shotInThemes('heal-compare');
});

void test('nothing was blocked and no page failed', () => assert.deepEqual(window.problems, []));
