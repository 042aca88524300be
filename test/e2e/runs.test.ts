/** Runs that are cancelled, killed and resumed: nothing is lost, and the view says what happened. */
import assert from 'node:assert/strict';
import { access, readFile } from 'node:fs/promises';
import path from 'node:path';
import { after, test } from 'node:test';
import { isAlive } from '../../extension/runs/process.ts';
import { Bondwise, runTimeout } from './bondwise.ts';
import { addSampleModel, eventually, openSession, readRuns, sampleName, waitForRun } from './setup.ts';

const title = /^Tensorize .*90%, /;
let output: string;

// Little is measured: these tests are about the run, not about its figures.
const session = await openSession(addSampleModel, { 'bondwise.evaluation.length': 32, 'bondwise.evaluation.sequences': 1 });
after(() => session.end());
const { window } = session;
const bondwise = new Bondwise(window);

/** Layers in the run's journal, and the journal's numbering. */
async function journal(): Promise<{ readonly layers: string[]; readonly sequence: number[] }> {
  const [run = ''] = (await readRuns(session.folder)).keys();
  const text = await readFile(path.join(session.folder, '.bondwise/runs', run, 'events.ndjson'), 'utf8');
  const events = text.trimEnd().split('\n').map((line) => JSON.parse(line) as { seq: number; type: string; layer?: { name: string } });
  return { layers: events.flatMap((event) => event.layer?.name ?? []), sequence: events.map((event) => event.seq) };
}

async function untilLayers(count: number): Promise<void> {
  await waitForRun(session.folder, (status) => status.state === 'running', 120_000);
  await eventually(async () => (await journal()).layers.length >= count, 300_000, `${count} layers are done`);
}

void test('a run of ten selected blocks is cancelled: its process is gone, and no half model is there', async () => {
  await bondwise.open();
  await (await bondwise.openPath(sampleName, 'Block 0')).click({ modifiers: ['Control'] });
  const last = await bondwise.openPath(sampleName, 'Block 9');
  await last.click({ modifiers: ['Shift'] });
  await window.contextQuestion(last, 'Tensorize…', 'Low rank', 'multi-select-dark');
  const name = await bondwise.answerTensorize({ sites: 'Low rank', size: '90%' });
  output = path.join(session.folder, name);
  await window.quickInputBox().press('Enter');
  await bondwise.run(title).waitFor({ timeout: 60_000 });
  await untilLayers(3);
  await window.contextMenu(bondwise.run(title), 'Cancel');
  const status = await waitForRun(session.folder, (now) => now.state === 'cancelled', 60_000);
  await bondwise.described(bondwise.run(title), 'Cancelled');
  await window.shotInThemes('cancelled');
  const { process } = status;
  assert.ok(process);
  // It writes its last word shortly before it ends.
  await eventually(async () => !(await isAlive(process)), 30_000, 'the process has ended');
  await assert.rejects(access(output), 'the output appears only when it is whole');
});

void test('resumed and killed, it is shown as interrupted', async () => {
  const before = (await journal()).layers.length;
  await window.contextMenu(bondwise.run(title), 'Resume');
  await untilLayers(before + 3);
  const status = await waitForRun(session.folder, (now) => now.state === 'running', 60_000);
  assert.ok(status.process);
  process.kill(-status.process.pid, 'SIGKILL');
  await waitForRun(session.folder, (now) => now.state === 'interrupted', 60_000);
  await window.notification(/^Tensorize .*90%/).waitFor();
  await window.notification(/process ended without saying why\. Resume the run/).waitFor();
  await window.shotInThemes('interrupted');
});

void test('resumed again, it goes on where it was and ends with a whole model', async () => {
  await window.contextMenu(bondwise.run(title), 'Resume');
  await waitForRun(session.folder, (now) => now.state === 'done', runTimeout);
  await bondwise.described(bondwise.run(title), /Done in/);
  const { layers, sequence } = await journal();
  assert.equal(new Set(layers).size, 70, 'every layer was done');
  assert.equal(layers.length, 70, 'and none twice');
  assert.deepEqual(sequence, sequence.map((_, index) => index + 1), 'the journal has no gaps across two resumes');
  await access(path.join(output, 'bondwise.json'));
  await bondwise.described(await bondwise.openPath(path.basename(output)), new RegExp(`\\d+% of ${sampleName}`));
});

void test('nothing was blocked and no page failed', () => assert.deepEqual(window.problems, []));
