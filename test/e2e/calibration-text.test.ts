/** The text that data-aware methods learn from: seen and changed where the method is chosen, and remembered by the workspace. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { after, test } from 'node:test';
import { Bondwise } from './bondwise.ts';
import { addSampleModel, openSession, readRuns, sampleName } from './setup.ts';

const layer = 'self_attn.q_proj';

const session = await openSession(addSampleModel);
after(() => session.end());
const { window } = session;
const bondwise = new Bondwise(window);

async function ask(...below: readonly string[]): Promise<void> {
  const row = await bondwise.openPath(sampleName, 'Block 14', ...below);
  await window.contextQuestion(row, 'Tensorize…', 'Low rank, data-aware');
}

async function setting(): Promise<unknown> {
  const settings = JSON.parse(await readFile(path.join(session.folder, '.vscode', 'settings.json'), 'utf8')) as Record<string, unknown>;
  return settings['bondwise.calibration.data'];
}

void test('the list of methods says which text is learned from, and leads to others and back', async () => {
  await bondwise.open();
  await ask(layer);
  await window.pickRow(/Text: built-in text/).waitFor();
  await window.shotInThemes('method-with-text');
  await window.pickRow(/Text: built-in text/).click();
  await window.pickRow('File…').waitFor();
  await window.shotInThemes('calibration-text');
  await window.pickRow('The model’s own text').click();
  await window.pickRow(/Text: the model’s own text/).waitFor();
  assert.equal(await setting(), 'self');
});

void test('a data set is named by its id, which is checked', async () => {
  await window.pickRow(/Text: the model’s own text/).click();
  await window.pickRow('Hub data set…').click();
  await window.quickInputBox().fill('not an id');
  await window.quickInput().locator('.quick-input-message', { hasText: 'ORG/NAME' }).waitFor();
  await window.shotInThemes('calibration-data-set');
  await window.type('some/texts');
  await window.pickRow(/Text: data set some\/texts/).waitFor();
  assert.equal(await setting(), 'some/texts');
});

void test('a block can be made in sequence, a layer alone cannot', async () => {
  await window.page.keyboard.press('Escape');
  await ask();
  await window.pickRow('Low rank, in sequence').waitFor();
  await window.pickRow('2 sites, data-aware').waitFor();
  await window.shotInThemes('methods-of-block');
  await window.page.keyboard.press('Escape');
  await ask(layer);
  assert.equal(await window.pickRow('Low rank, in sequence').count(), 0);
});

void test('the workspace remembers it, and Enter goes on with what is proposed', async () => {
  await window.page.keyboard.press('Escape');
  await ask(layer);
  await window.pickRow(/Text: data set some\/texts/).click();
  await window.pickRow('The model’s own text').click();
  await window.pickRow(/Text: the model’s own text/).waitFor();
  await window.quickInputBox().press('Enter');
  await window.quickInput().locator('.quick-input-list', { hasText: 'kept' }).waitFor();
  await window.type('50%');
  await window.quickInputTitle('(3/3)');
  await window.quickInputBox().press('Enter');
  await bondwise.run(/^Tensorize .*q_proj/).waitFor({ timeout: 60_000 });
  const [name] = (await readRuns(session.folder)).keys();
  assert.ok(name !== undefined);
  const request = JSON.parse(await readFile(path.join(session.folder, '.bondwise/runs', name, 'run.json'), 'utf8')) as { options: { calibration: unknown; tensorize: unknown } };
  assert.deepEqual(request.options.calibration, { data: 'self' });
  assert.match(JSON.stringify(request.options.tensorize), /"method":"fisher"/);
});
