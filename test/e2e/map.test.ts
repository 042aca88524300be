/** A model, and the one that it was made from, in one picture: what is chosen there is chosen in the tree. */
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import type { Frame } from 'playwright-core';
import { assertAccessible } from './axe.ts';
import { Bondwise } from './bondwise.ts';
import { addCompressedModel, eventually, openSession, sampleName } from './setup.ts';

const small = 'small';
const map = '[role="grid"]';

const session = await openSession((folder) => addCompressedModel(folder, small));
after(() => session.end());
const { window } = session;
const bondwise = new Bondwise(window);

/** A row of the tree that is selected, by its label. */
function selectedRow(label: string) {
  return window.row(bondwise.models, label).and(window.page.locator('.selected'));
}

async function chooseBeside(frame: Frame, name: string): Promise<void> {
  await frame.getByRole('combobox', { name: 'Beside' }).selectOption({ label: name });
}

void test('Show Model Map shows the whole network; the keyboard reaches a layer, and the tree follows', async () => {
  await bondwise.open();
  await bondwise.model(small).waitFor();
  await window.contextMenu(bondwise.model(small), 'Show Model Map');
  const frame = await window.webviewFrame(map, 60_000);
  const grid = frame.getByRole('grid', { name: new RegExp(`^Map of ${small}: 210 layers in 30 blocks`) });
  await grid.waitFor();
  await frame.getByRole('listitem', { name: /^Embedding: 28/ }).waitFor();
  await grid.focus();
  for (const key of ['Control+Home', ...Array<string>(20).fill('ArrowDown'), 'ArrowRight', 'ArrowRight']) {
    await window.page.keyboard.press(key);
  }
  const cell = frame.getByRole('gridcell');
  await cell.waitFor();
  assert.match((await cell.getAttribute('aria-label')) ?? '', /^Block 20, self_attn\.q_proj; Shape 576 × 576; .*% kept.*tensorized: relative error/);
  await window.page.keyboard.press('Enter');
  await selectedRow('self_attn.q_proj').waitFor();
});

void test('the original stands beside it, layer by layer, and a choice in the tree is a choice in both', async () => {
  const frame = await window.webviewFrame(map);
  await chooseBeside(frame, sampleName);
  await frame.getByRole('grid', { name: new RegExp(`^Map of ${sampleName}`) }).waitFor();
  await (await bondwise.openPath(small, 'Block 20', 'mlp.gate_proj')).click();
  const [left, right] = [frame.getByRole('gridcell').nth(0), frame.getByRole('gridcell').nth(1)];
  await left.and(frame.locator('[aria-label^="Block 20, mlp.gate_proj"][aria-selected="true"]')).waitFor();
  await right.and(frame.locator('[aria-label^="Block 20, mlp.gate_proj"][aria-selected="true"]')).waitFor();
  await window.shotInThemes('map-beside');
  for (const colour of ['Precision', 'Sensitivity']) {
    await frame.getByRole('combobox', { name: 'Colour' }).selectOption({ label: colour });
    await window.shotInThemes(`map-${colour.toLowerCase()}`);
  }
  await assertAccessible(window, () => window.webviewFrame(map));
});

void test('its menu is the tree’s, and the same numbers are a table', async () => {
  const frame = await window.webviewFrame(map);
  await frame.getByRole('grid').first().focus();
  await window.page.keyboard.press('Shift+F10');
  await frame.getByRole('menuitem', { name: 'Show Tensors' }).waitFor();
  await window.shotInThemes('map-menu');
  await frame.getByRole('menuitem', { name: 'Copy Name' }).click();
  await eventually(async () => (await window.page.evaluate('navigator.clipboard.readText()')) === 'model.layers.20.mlp.gate_proj', 10_000, 'the name is in the clipboard');
  await frame.getByText('Table', { exact: true }).click();
  await frame.getByRole('row', { name: /model\.layers\.20\.mlp\.gate_proj.*30%/ }).waitFor();
  await window.shotInThemes('map-table');
  await assertAccessible(window, () => window.webviewFrame('table'));
});

void test('Compare Tensors ranks them by change, and search finds one', async () => {
  const frame = await window.webviewFrame('table');
  await frame.getByRole('button', { name: 'Compare Tensors' }).click();
  const diff = await window.webviewFrame('.scroller', 60_000);
  await diff.getByText(/^8 of 272 tensors changed, all together by /).waitFor({ timeout: 120_000 });
  assert.match((await diff.getByRole('row').nth(1).innerText()).replaceAll('\n', ' '), /^model\.layers\.2[0-3]\.\S+\.weight \d+%.*BF16 → cores, χ \d+/);
  await window.shotInThemes('diff');
  await assertAccessible(window, () => window.webviewFrame('.scroller'));
  await diff.getByRole('searchbox').fill('21 gate');
  await diff.getByText('1 of 272').waitFor();
  await diff.getByRole('searchbox').fill('');
  await diff.getByRole('combobox', { name: 'Show' }).selectOption({ label: 'equal (264)' });
  await diff.getByRole('row', { name: /model\.embed_tokens\.weight equal/ }).waitFor();
  await window.tab(/^Map: /).click();
});

void test('a reload brings the map back, both models and the selection', async () => {
  await window.reload();
  const frame = await window.webviewFrame('table', 60_000);
  await frame.getByText(`Layers of ${small} (1st) and ${sampleName} (2nd)`).waitFor();
  await frame.locator('tr.selected', { hasText: 'model.layers.20.mlp.gate_proj' }).waitFor();
});

void test('nothing was blocked and no page failed', () => assert.deepEqual(window.problems, []));
