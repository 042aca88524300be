/** A newcomer's first minutes: nothing is installed, the engine is set up in the editor, and the sample model is fetched. */
import assert from 'node:assert/strict';
import { access, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, test } from 'node:test';
import { environmentDirectory, MARKER, pythonIn } from '../../extension/engine/home.ts';
import { engineDir } from '../../extension/scripts/environment.ts';
import { Bondwise, runTimeout } from './bondwise.ts';
import { eventually, openSession, readRuns, sampleName, waitForRun } from './setup.ts';

/** Where nothing has been set up, 3 GB are downloaded. */
const setUpTimeout = 900_000;
const notYet = 'which is not set up yet';
const question = 'Set up Bondwise’s engine?';
const progress = /^Setting up the engine/;

const home = await mkdtemp(path.join(tmpdir(), 'bondwise-home-'));
const environment = await environmentDirectory(home, engineDir, 'requirements.lock');
const session = await openSession(() => Promise.resolve(), {}, home);
after(async () => {
  await session.end();
  await rm(home, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
});
const { window } = session;
const bondwise = new Bondwise(window);

async function exists(file: string): Promise<boolean> {
  return access(file).then(() => true, () => false);
}

async function entries(folder: string): Promise<readonly string[]> {
  return readdir(folder).catch(() => []);
}

/** Folders and modules of the environment to be. */
async function packages(): Promise<readonly string[]> {
  const [python = ''] = await entries(path.join(environment, 'lib'));
  return entries(path.join(environment, 'lib', python, 'site-packages'));
}

async function untilPackagesCome(): Promise<void> {
  await window.notification(progress).waitFor();
  await eventually(async () => (await packages()).length > 10, setUpTimeout, 'packages are coming');
}

/** Processes that name the temporary home: the installer, or a Python of the environment. */
async function processes(): Promise<readonly string[]> {
  const commands = await Promise.all(
    (await entries('/proc')).filter((name) => /^\d+$/.test(name)).map((pid) => readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')),
  );
  return commands.filter((command) => command.includes(environment)).map((command) => command.replaceAll('\0', ' '));
}

/** Opens a fresh report of Check Engine and returns its text. */
async function report(text: RegExp, shots: string): Promise<string> {
  await eventually(async () => text.test(await window.editorText().catch(() => '')), 120_000, `the report says ${text.source}`);
  await window.shotInThemes(shots);
  return window.editorText();
}

void test('without an engine, Check Engine says what was tried and offers to set it up', async () => {
  await bondwise.open();
  await window.runCommand('Bondwise: Check Engine');
  const text = await report(/No Python that can run the engine was found/, 'engine-missing');
  assert.match(text, /it has not been set up yet/);
  await window.page.locator('.codelens-decoration').getByText('Set Up Engine').click();
  await window.dialog(question).waitFor();
});

void test('set-up asks first: what it makes, where, and how much it downloads; declined, it does nothing', async () => {
  const text = await window.dialog(question).innerText();
  assert.ok(text.includes(environment), text);
  assert.match(text, /downloads up to \d.* (MB|GB) .* takes \d.* GB on disk/);
  await window.shotInThemes('set-up-consent');
  await window.answerDialog(question, 'Cancel');
  assert.deepEqual(await entries(home), []);
});

void test('cancelled half-way, it ends and leaves nothing', async () => {
  await window.runCommand('Bondwise: Set Up Engine');
  await window.answerDialog(question, 'Set Up');
  await untilPackagesCome();
  await window.clickNotification(progress, 'Cancel');
  await window.notification(progress).waitFor({ state: 'detached' });
  await eventually(async () => (await entries(path.join(home, 'setup'))).length === 0, 30_000, 'the set-up has ended');
  assert.deepEqual(await processes(), [], 'with its installer');
  assert.equal(await exists(environment), false, 'and what it had made is gone');
});

void test('ended half-way with its window, it leaves what nothing takes for an engine', async () => {
  await window.runCommand('Bondwise: Set Up Engine');
  await window.answerDialog(question, 'Set Up');
  await untilPackagesCome();
  await window.reload();
  await bondwise.open();
  await eventually(async () => (await processes()).length === 0, 30_000, 'the installer has ended');
  assert.equal(await exists(pythonIn(environment)), true, 'half of an environment is there');
  assert.equal(await exists(path.join(environment, MARKER)), false);

  await bondwise.welcome(bondwise.models).getByRole('button', { name: 'Get the Sample Model' }).click();
  await window.pickRow('In this workspace').click();
  await window.dialog(notYet).waitFor();
  await window.shotInThemes('set-up-needed');
  await window.answerDialog(notYet, 'Cancel');
  assert.equal((await readRuns(session.folder)).size, 0);
  await window.runCommand('Bondwise: Check Engine');
  await report(/its set-up was not finished/, 'engine-half-made');
});

void test('run again, it comes to its end, and Check Engine finds all that is needed', async () => {
  await window.runCommand('Bondwise: Set Up Engine');
  await window.answerDialog(question, 'Set Up');
  await window.notification(/^Setting up the engine: (Downloading|Installing|Trying)/).waitFor({ timeout: setUpTimeout });
  await window.shotInThemes('set-up-running');
  await window.notification(/^The engine is ready: Python 3\./).waitFor({ timeout: setUpTimeout });
  await window.shot('set-up-done-dark');
  assert.equal(await exists(path.join(environment, MARKER)), true);
  await window.clickNotification('The engine is ready', 'Check Engine');
  const text = await report(/Everything that the engine needs is here/, 'engine-ready');
  assert.ok(text.includes(pythonIn(environment)), text);
});

void test('set up already, it offers to repair', async () => {
  await window.runCommand('Bondwise: Set Up Engine');
  await window.dialog('The engine is set up already').waitFor();
  await window.shotInThemes('set-up-repair');
  await window.answerDialog('The engine is set up already', 'Cancel');
  assert.equal(await exists(path.join(environment, MARKER)), true);
});

void test('Get Sample Model fetches and converts it, and the model stands in the view', async () => {
  await bondwise.welcome(bondwise.models).getByRole('button', { name: 'Get the Sample Model' }).click();
  await window.pickRow('In this workspace').waitFor();
  await window.shotInThemes('sample-where');
  await window.pickRow('In this workspace').click();
  const run = bondwise.run('Get sample model');
  await run.waitFor();
  await waitForRun(session.folder, (status) => status.state === 'running' && status.progress !== undefined, 120_000);
  await window.shotInThemes('sample-running');
  await waitForRun(session.folder, (status) => status.state === 'done', runTimeout);
  await window.notification(`The sample model is ready: ${sampleName}`).waitFor();
  await bondwise.described(bondwise.model(sampleName), /13\d M · 269 MB/);
  await bondwise.described(run, /Done in/);
  await window.shotInThemes('sample-done');
  // Asked for again, it is shown, not fetched.
  await window.runCommand('Bondwise: Get Sample Model');
  await window.pickRow('In this workspace').click();
  await bondwise.models.locator('.monaco-list-row.selected', { hasText: sampleName }).waitFor();
  assert.equal((await readRuns(session.folder)).size, 1);
});

void test('nothing was blocked and no page failed', () => assert.deepEqual(window.problems, []));
