/** A window in German: manifest, extension host and webviews speak it. The workbench's own words stay English without its language pack. */
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { Bondwise } from './bondwise.ts';
import { addSampleModel, openSession, sampleName } from './setup.ts';
import { Workbench } from './workbench.ts';

const session = await openSession(addSampleModel);
after(() => session.end());
await session.window.close();
// What the workbench reads its language from; with a language pack the server would set it.
const window = await Workbench.open(session.server, {
  prepare: async page => {
    await page.addInitScript({ content: "globalThis._VSCODE_NLS_LANGUAGE = 'de';" });
  },
});
after(() => window.close());
const bondwise = new Bondwise(window);

void test('views, rows and menus are German', async () => {
  await window.openContainer('Bondwise');
  const models = window.view('Modelle');
  await models.waitFor();
  await bondwise.welcome(window.view('Läufe')).getByText('Noch keine Läufe').waitFor();
  const row = window.row(models, sampleName);
  await bondwise.described(row, 'M · 269 MB');
  await window.contextMenu(row, 'Tensoren anzeigen');
});

void test('webviews are German, under the same policy', async () => {
  const frame = await window.webviewFrame('[aria-label="Tensoren"]', 60_000);
  assert.equal(await frame.locator('html').getAttribute('lang'), 'de');
  await frame.getByRole('searchbox', { name: 'Namen suchen' }).waitFor();
  await frame.getByText('272 Tensoren').waitFor();
  await window.shotInThemes('german');
  assert.deepEqual(window.problems, []);
});
