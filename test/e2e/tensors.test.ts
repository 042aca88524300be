/** A weight file as a person looks into it. */
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { assertAccessible } from './axe.ts';
import { Bondwise } from './bondwise.ts';
import { addSampleModel, openSession, sampleName } from './setup.ts';

const session = await openSession(addSampleModel);
after(() => session.end());
const { window } = session;
const bondwise = new Bondwise(window);
const editor = '[aria-label="Tensors"]';

void test('Show Tensors on a layer opens its file with the layer’s weight chosen, and the engine tells what is in it', async () => {
  await bondwise.open();
  const row = await bondwise.openPath(sampleName, 'Block 3', 'mlp.down_proj');
  await window.contextMenu(row, 'Show Tensors');
  const frame = await window.webviewFrame(editor, 60_000);
  await frame.getByRole('heading', { name: 'model.layers.3.mlp.down_proj.weight' }).waitFor();
  await frame.getByRole('img', { name: /^Histogram of/ }).waitFor({ timeout: 120_000 });
  await frame.getByRole('img', { name: /^Singular values of/ }).waitFor({ timeout: 120_000 });
  assert.match(await frame.locator('.details').innerText(), /235\s+441 K/, 'χ 235 keeps half of the parameters');
  await window.shotInThemes('tensors');
  await assertAccessible(window, () => window.webviewFrame(editor));
});

void test('search and sorting find a tensor, by keyboard alone too', async () => {
  const frame = await window.webviewFrame(editor);
  await frame.getByRole('searchbox').fill('norm 11');
  await frame.getByText('2 of 272').waitFor();
  await frame.getByRole('grid').focus();
  await window.page.keyboard.press('Home');
  await frame.getByRole('heading', { name: 'model.layers.11.input_layernorm.weight' }).waitFor();
  await frame.getByText('Standard deviation').waitFor({ timeout: 120_000 });
  await frame.getByRole('searchbox').fill('');
  await frame.getByRole('button', { name: 'Values' }).click();
  await frame.getByRole('button', { name: 'Values' }).click();
  await frame.getByRole('row').nth(1).filter({ hasText: 'model.embed_tokens.weight' }).waitFor();
});

void test('nothing was blocked and no page failed', () => assert.deepEqual(window.problems, []));
