/** What the views say when there is nothing to show, or something is wrong. */
import assert from 'node:assert/strict';
import { copyFile, mkdir, rm, truncate, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { after, test } from 'node:test';
import { Bondwise } from './bondwise.ts';
import { addSampleModel, openSession, sampleName } from './setup.ts';

const session = await openSession((folder) => writeFile(path.join(folder, 'notes.txt'), 'no model here\n'));
after(() => session.end());
const { window } = session;
const bondwise = new Bondwise(window);

const nothing = 'No model in this workspace';
// From each load on, it is kept whether the welcome was ever shown.
await window.page.addInitScript({
  content: `new MutationObserver(() => { window.welcomed ||= document.body?.innerText.includes(${JSON.stringify(nothing)}); }).observe(document, { childList: true, subtree: true, attributes: true });`,
});
const welcomed = (): Promise<boolean> => window.page.evaluate('window.welcomed === true');

void test('an empty workspace is met with what to do', async () => {
  await bondwise.open();
  const welcome = bondwise.welcome(bondwise.models);
  await welcome.getByText(nothing).waitFor();
  await welcome.getByRole('button', { name: 'Add Model…' }).waitFor();
  await welcome.getByRole('button', { name: 'Get the Sample Model' }).waitFor();
  await bondwise.welcome(bondwise.runs).getByText('No runs yet').waitFor();
  for (const theme of ['light', 'contrast', 'dark'] as const) {
    await window.setTheme(session.server, theme);
    await bondwise.open();
    await welcome.getByText(nothing).waitFor();
    assert.equal(await welcomed(), true);
    await window.shot(`welcome-${theme}`);
  }
});

void test('a model that comes is shown, and goes when its folder goes', async () => {
  const folder = await addSampleModel(session.folder);
  await bondwise.described(bondwise.model(sampleName), 'M · 269 MB');
  for (const theme of ['light', 'contrast', 'dark'] as const) {
    await window.setTheme(session.server, theme);
    await bondwise.open();
    await bondwise.openPath(sampleName, 'Block 0', 'self_attn.q_proj');
    assert.equal(await welcomed(), false, 'the welcome does not flash before the rows come');
    await window.shot(`tree-${theme}`);
  }
  await rm(folder, { recursive: true });
  await bondwise.welcome(bondwise.models).getByText(nothing).waitFor();
});

void test('a damaged checkpoint says what is wrong with which file', async () => {
  const source = await addSampleModel(session.folder);
  const broken = path.join(session.folder, 'broken');
  await mkdir(broken);
  await copyFile(path.join(source, 'config.json'), path.join(broken, 'config.json'));
  await copyFile(path.join(source, 'model.safetensors'), path.join(broken, 'model.safetensors'));
  await truncate(path.join(broken, 'model.safetensors'), 1000);
  await bondwise.described(bondwise.model('broken'), /^is truncated: .* \(model\.safetensors\)$/);
  await bondwise.model(sampleName).waitFor();
  await window.shot('damaged-dark');
  await rm(broken, { recursive: true });
  await bondwise.model('broken').waitFor({ state: 'detached' });
});

void test('Check Engine reports what was found', async () => {
  await window.runCommand('Bondwise: Check Engine');
  await window.tab('Bondwise Engine Check').waitFor({ timeout: 120_000 });
  const text = window.page.locator('.part.editor .view-lines');
  await text.getByText('transformers').waitFor();
  await window.shot('check-engine-dark');
  const report = (await text.innerText()).replaceAll('\u00a0', ' ');
  assert.match(report, /Python +3\.\d+/);
  assert.match(report, /Device +(cpu|cuda|mps)/);
});

void test('nothing was blocked and no page failed', () => assert.deepEqual(window.problems, []));
