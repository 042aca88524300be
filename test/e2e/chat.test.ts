/** A chat as a user has one: two models side by side on one prompt, stopped, and with an engine that dies under it. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFile, readdir } from 'node:fs/promises';
import path from 'node:path';
import { after, test } from 'node:test';
import { promisify } from 'node:util';
import type { Frame } from 'playwright-core';
import { projectRoot } from '../../extension/scripts/project.ts';
import { Bondwise, runTimeout } from './bondwise.ts';
import { addSampleModel, enginePython, eventually, openSession, sampleName } from './setup.ts';

const small = `${sampleName}-small`;
const session = await openSession(fill);
after(() => session.end());
const { window } = session;
const bondwise = new Bondwise(window);

/** The sample model, and one that lost half of a layer. */
async function fill(workspace: string): Promise<void> {
  await addSampleModel(workspace);
  const args = ['-m', 'bondwise', 'tensorize', sampleName, '--layers', '*.29.self_attn.q_proj', '--keep', '0.5', '--output', small];
  await promisify(execFile)(await enginePython(), args, { cwd: workspace, env: { ...process.env, PYTHONPATH: path.join(projectRoot, 'engine') } });
}

async function page(): Promise<Frame> {
  return window.webviewFrame('main textarea', 60_000);
}

/** The processes of the warm engine that belong to this window's server. */
async function engines(): Promise<readonly number[]> {
  const found: number[] = [];
  for (const name of await readdir('/proc')) {
    const command = /^\d+$/.test(name) ? await readFile(`/proc/${name}/cmdline`, 'utf8').catch(() => '') : '';
    const environment = command.includes('bondwise\0serve') ? await readFile(`/proc/${name}/environ`, 'utf8').catch(() => '') : '';
    if (environment.includes(session.server.directory)) {
      found.push(Number(name));
    }
  }
  return found;
}

void test('two models answer one prompt side by side', async () => {
  await bondwise.open();
  await bondwise.model(small).waitFor();
  // A click opens a row too: the lower one first.
  await bondwise.model(small).click();
  await bondwise.model(sampleName).click({ modifiers: ['Control'] });
  await window.contextMenu(bondwise.model(sampleName), 'Chat With Models…');
  const frame = await page();
  await frame.getByText('in memory', { exact: false }).nth(1).waitFor({ timeout: runTimeout });
  await frame.getByText(/^Answers: /).click();
  await frame.getByLabel('Most tokens').fill('24');
  await frame.getByLabel('Prompt', { exact: true }).fill('What is the capital of France?');
  await frame.getByLabel('Prompt', { exact: true }).press('Enter');
  await frame.getByText(/\d+ tokens · [\d.]+ tokens\/s/).nth(1).waitFor({ timeout: runTimeout });
  await eventually(async () => (await frame.locator('.answer.open').count()) === 0, runTimeout, 'both have ended');
  const answers = await frame.locator('.answer .text').allInnerTexts();
  assert.equal(answers.length, 2);
  const [original = '', compressed = ''] = answers;
  assert.match(original, /Paris/);
  // What a layer is worth shows in the answer.
  assert.match(compressed, /\w/);
  await window.shotInThemes('chat');
});

void test('Stop ends both at once, and keeps what is there', async () => {
  const frame = await page();
  await frame.getByLabel('Most tokens').fill('4000');
  await frame.getByLabel('Most tokens').press('Tab');
  await frame.getByLabel('Prompt', { exact: true }).fill('Count from one to one thousand, in words.');
  await frame.getByRole('button', { name: 'Send' }).click();
  await frame.locator('.turn').nth(1).locator('.answer.open .text').filter({ hasText: /\w/ }).nth(1).waitFor({ timeout: runTimeout });
  await window.shot('chat-writing-dark');
  await frame.getByRole('button', { name: 'Stop' }).click();
  await frame.getByText(/ · stopped$/).nth(1).waitFor({ timeout: 5000 });
});

void test('when the engine dies the panel says so, and goes on', async () => {
  const [engine, ...others] = await engines();
  assert.ok(engine !== undefined && others.length === 0);
  const frame = await page();
  process.kill(engine, 'SIGKILL');
  await frame.getByText(/process ended \(killed by SIGKILL\)/).waitFor();
  await window.shot('chat-died-dark');
  await frame.getByRole('button', { name: 'New Conversation' }).click();
  await frame.getByLabel('Most tokens').fill('8');
  await frame.getByLabel('Most tokens').press('Tab');
  await frame.getByLabel('Prompt', { exact: true }).fill('Say hello.');
  await frame.getByRole('button', { name: 'Send' }).click();
  await frame.locator('.turn .facts').filter({ hasText: /^\d+ tokens?/ }).nth(1).waitFor({ timeout: runTimeout });
  await eventually(async () => (await frame.locator('.answer.open').count()) === 0, runTimeout, 'both have ended');
  assert.equal(await frame.locator('.turn .problem:not(:empty)').count(), 0);
});

void test('the page comes back by its models, and the engine ends with the window', async () => {
  await window.reload();
  const frame = await page();
  await frame.getByText('in memory', { exact: false }).nth(1).waitFor({ timeout: runTimeout });
  assert.equal(await frame.locator('.turn').count(), 0);
  assert.deepEqual(window.problems, []);
  // As a user who closes the tab.
  await window.page.goto('about:blank');
  await eventually(async () => (await engines()).length === 0, 60_000, 'no engine is left');
});
