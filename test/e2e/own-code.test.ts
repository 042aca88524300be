/** A model that brings its own Python code: a run asks first, and without a yes not a line of it runs. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { access, appendFile, readFile, rm } from 'node:fs/promises';
import path from 'node:path';
import { after, test } from 'node:test';
import { promisify } from 'node:util';
import { projectRoot } from '../../extension/scripts/project.ts';
import { Bondwise, runTimeout } from './bondwise.ts';
import { enginePython, eventually, openSession, readRuns, waitForRun } from './setup.ts';

const name = 'foreign';
const question = 'foreign brings its own Python code. Run it?';
const allow = 'Allow This Folder';
const code = ['configuration_foreign.py', 'modeling_foreign.py'];
/** The compressed model. */
let made: string;

const session = await openSession(
  async (folder) => {
    const env = { ...process.env, PYTHONPATH: path.join(projectRoot, 'test/engine') };
    const script = path.join(import.meta.dirname, 'own_code_model.py');
    await promisify(execFile)(await enginePython(), [script, path.join(folder, name), path.join(folder, 'other')], { env });
  },
  // As many tokens as the tiny model has positions for.
  { 'bondwise.evaluation.length': 64 },
);
after(() => session.end());
const { window } = session;
const bondwise = new Bondwise(window);

/** Whether the code of one of the models was ever run. */
async function ran(model: string): Promise<boolean> {
  return access(path.join(session.folder, `${model}.ran`)).then(() => true, () => false);
}

/** @returns the name that is proposed for the new folder, and taken. */
async function tensorize(model: string): Promise<string> {
  await window.contextQuestion(await bondwise.openPath(model, 'Block 0', 'self_attn.q_proj'), 'Tensorize…', 'Low rank');
  const proposed = await bondwise.answerTensorize({ sites: 'Low rank', size: '50%' });
  await window.quickInputBox().press('Enter');
  return proposed;
}

async function allDone(count: number): Promise<void> {
  const states = async (): Promise<string[]> => [...(await readRuns(session.folder)).values()].map(({ state }) => state);
  await eventually(async () => (await states()).filter((state) => state === 'done').length === count, runTimeout, `${count} runs are done`);
}

/** As it is proposed, from the predictions of one calibration pass. */
async function profile(model: string): Promise<void> {
  await (await window.contextQuestion(await bondwise.openPath(model), 'Profile Sensitivity…', 'Predicted')).click();
  await window.pickRow('Built-in text').click();
  await window.quickInput().locator('.quick-input-message', { hasText: 'Enter starts the run' }).waitFor();
  await window.quickInputBox().press('Enter');
}

void test('the model is shown, with what it brings, and nothing of it runs', async () => {
  await bondwise.open();
  assert.match(await window.hover(bondwise.model(name)), /needs its own Python code/);
  await window.shot('own-code-tooltip-dark');
  await window.page.keyboard.press('Escape');
  assert.equal(await ran(name), false);
});

void test('a run asks first and names the folder and the files; declined, there is no run', async () => {
  await tensorize(name);
  const dialog = window.dialog(question);
  const text = await dialog.innerText();
  assert.ok(text.includes(path.join(session.folder, name)), text);
  assert.ok(text.includes('modeling_foreign.py'), text);
  await window.shotInThemes('own-code-consent');
  await window.answerDialog(question, 'Cancel');
  await profile(name);
  await dialog.waitFor();
  await window.page.keyboard.press('Escape');
  await dialog.waitFor({ state: 'detached' });
  assert.equal((await readRuns(session.folder)).size, 0);
  assert.equal(await ran(name), false);
});

void test('the Enter key does not allow it: it shows the code, and the question stays', async () => {
  await profile(name);
  await window.dialog(question).waitFor();
  await window.page.keyboard.press('Enter');
  await window.tab('modeling_foreign.py').waitFor();
  await window.notification(question).waitFor();
  await window.shotInThemes('own-code-read');
  assert.match(await window.editorText(), /class ForeignForCausalLM/);
  assert.equal((await readRuns(session.folder)).size, 0);
  assert.equal(await ran(name), false);
});

void test('allowed, the run does its work with that code', async () => {
  await window.clickNotification(question, allow);
  await waitForRun(session.folder, (status) => status.state === 'done', runTimeout);
  assert.equal(await ran(name), true);
  await window.shotInThemes('own-code-done');
});

void test('that folder is not asked about again, and another one is', async () => {
  await window.runCommand('View: Close All Editors');
  await profile('other');
  await window.dialog('other brings its own Python code').waitFor();
  await window.answerDialog('other brings its own Python code', 'Cancel');
  assert.equal(await ran('other'), false);
  await profile(name);
  await allDone(2);
});

void test('compressed, the model carries its code and stands beside the original', async () => {
  made = await tensorize(name);
  await allDone(3);
  await bondwise.described(bondwise.model(made), /\d+% of foreign/);
  for (const file of code) {
    const [before, after] = await Promise.all([name, made].map((folder) => readFile(path.join(session.folder, folder, file))));
    assert.ok(before && after?.equals(before), file);
  }
  await window.contextMenu(await bondwise.openPath(made), 'Compare With Original');
  const frame = await window.webviewFrame('h1');
  assert.match(await frame.locator('main').innerText(), /Perplexity/i);
  await window.shotInThemes('own-code-compressed');
});

void test('its folder is asked about in its turn', async () => {
  await window.runCommand('View: Close All Editors');
  await rm(path.join(session.folder, `${name}.ran`));
  await profile(made);
  const dialog = window.dialog(`${made} brings its own Python code`);
  const text = await dialog.innerText();
  for (const file of [...code, 'modeling_mpo.py', path.join(session.folder, made)]) {
    assert.ok(text.includes(file), text);
  }
  await window.shotInThemes('own-code-consent-compressed');
  await window.answerDialog(`${made} brings its own Python code`, 'Cancel');
  assert.equal(await ran(name), false);
  await profile(made);
  await dialog.waitFor();
  await window.answerDialog(`${made} brings its own Python code`, allow);
  await allDone(4);
  assert.equal(await ran(name), true);
});

void test('a file that changed after the answer is asked about again', async () => {
  await window.runCommand('View: Close All Editors');
  await rm(path.join(session.folder, `${name}.ran`));
  await appendFile(path.join(session.folder, made, 'configuration_foreign.py'), '\n# Changed.\n');
  await profile(made);
  const dialog = window.dialog(`${made} brings its own Python code`);
  assert.match(await dialog.innerText(), /changed since you allowed them/);
  await window.answerDialog(`${made} brings its own Python code`, 'Cancel');
  assert.equal((await readRuns(session.folder)).size, 4);
  assert.equal(await ran(name), false);
});

void test('nothing was blocked and no page failed', () => assert.deepEqual(window.problems, []));
