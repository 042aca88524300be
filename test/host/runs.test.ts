import assert from 'node:assert/strict';
import { appendFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { before, describe, it } from 'mocha';
import * as vscode from 'vscode';
import { endedRuns } from '../../extension/commands/cleanUpRuns.ts';
import { isOfPlan, planFor } from '../../extension/commands/runWithChanges.ts';
import type { Api } from '../../extension/extension.ts';
import { Plan } from '../../extension/plan/planFile.ts';
import type { TensorizeRequest } from '../../extension/protocol/types.ts';
import { identify } from '../../extension/runs/process.ts';
import { api, tensorizeResult, until, workspaceFolder, writeRun, writeStatus } from './fixtures.ts';

let extension: Api;
const root = () => path.join(workspaceFolder(), '.bondwise', 'runs');

function row(directory: string): vscode.TreeItem {
  const node = extension.runsTree.nodeOf(directory);
  assert.ok(node, directory);
  return extension.runsTree.getTreeItem(node);
}

function details(directory: string): vscode.TreeItem[] {
  return extension.runsTree.getChildren(extension.runsTree.nodeOf(directory)).map(node => extension.runsTree.getTreeItem(node));
}

describe('the Runs view', () => {
  before(async () => {
    extension = await api();
  });

  it('follows a run that somebody else started, from running to done', async () => {
    const process_ = await identify(process.pid);
    assert.ok(process_);
    const progress = { done: 3, total: 12, unit: 'layer', rate: 1.5, eta: 6 };
    const running = { state: 'running', phase: 'Decomposing', progress, process: process_ } as const;
    const directory = await writeRun(root(), '20260101-000000-tensorize-000001', {}, running);
    await until('seen', () => extension.runs.get(directory));
    assert.equal(row(directory).description, '25% · 6 s left · Decomposing · layer 3/12 · 1.5 layers/s');
    assert.equal(row(directory).contextValue, 'run.running.tensorize');
    assert.deepEqual(extension.runs.active.map(run => run.directory), [directory]);

    const event = { seq: 1, time: '2026-01-01T00:00:00Z', type: 'layer', layer: tensorizeResult('/models/small', 'model.layers.0.mlp.up_proj').layers[0] };
    await appendFile(path.join(directory, 'events.ndjson'), `${JSON.stringify(event)}\n`);
    await until('the layer', () => details(directory).find(({ label }) => label === '1 layer'));

    await writeFile(path.join(directory, 'result.json'), JSON.stringify(tensorizeResult(path.join(workspaceFolder(), 'small'), 'model.layers.0.mlp.up_proj')));
    await writeStatus(directory, { state: 'done' });
    await until('done', () => (extension.runs.get(directory)?.state === 'done' ? true : undefined));
    assert.match(String(row(directory).description), /^Done in 3 s · /);
    const shown = new Map(details(directory).map(({ label, description }) => [label, description]));
    assert.equal(shown.get('Parameters'), '7.3 K → 6.8 K (93%)');
    assert.equal(shown.get('Compressed'), 'perplexity 25.00 ± 0.50 · 50 tokens/s');
    assert.equal(extension.runs.active.length, 0);
    await rm(directory, { recursive: true });
    await until('removed', () => (extension.runs.get(directory) ? undefined : true));
  });

  it('shows why a run failed, with what to do below it', async () => {
    const error = { message: 'model.layers.3.mlp.up_proj has 2 NaN values.', remedy: 'Leave the layer out.' };
    const directory = await writeRun(root(), '20260101-000000-tensorize-000002', {}, { state: 'failed', error });
    await until('seen', () => extension.runs.get(directory));
    assert.equal(row(directory).description, error.message);
    const [first] = extension.runsTree.getChildren(extension.runsTree.nodeOf(directory));
    assert.ok(first);
    assert.equal(extension.runsTree.getTreeItem(first).contextValue, 'detail.error');
    const [remedy] = extension.runsTree.getChildren(first);
    assert.ok(remedy);
    assert.equal(extension.runsTree.getTreeItem(remedy).label, error.remedy);
    await rm(directory, { recursive: true });
  });

  it('marks a run whose process is gone as interrupted, and cancels one that nobody answers for', async () => {
    const gone = { pid: 2 ** 22 + 1, started: 'linux:none:1', host: (await identify(process.pid))?.host ?? '' };
    const directory = await writeRun(root(), '20260101-000000-tensorize-000003', {}, { state: 'running', process: gone });
    await until('interrupted', () => (extension.runs.get(directory)?.state === 'interrupted' ? true : undefined));
    assert.match(String(row(directory).description), /ended without saying why/);
    await writeStatus(directory, { state: 'running', process: gone });
    await vscode.commands.executeCommand('bondwise.cancelRun', directory);
    await until('ended', () => (extension.runs.get(directory)?.state !== 'running' ? true : undefined));
    await rm(directory, { recursive: true });
  });

  it('gives untrusted text no line breaks and no markdown', async () => {
    const directory = await writeRun(root(), '20260101-000000-tensorize-000004', { title: 'a\n\u202e[b](command:x)' }, { state: 'cancelled' });
    await until('seen', () => extension.runs.get(directory));
    assert.equal(row(directory).label, 'a \u202e[b](command:x)');
    const node = extension.runsTree.nodeOf(directory);
    assert.ok(node);
    const { tooltip } = extension.runsTree.resolveTreeItem(row(directory), node);
    assert.ok(tooltip instanceof vscode.MarkdownString && !tooltip.isTrusted);
    assert.doesNotMatch(tooltip.value, /(?<!\\)\[b/);
    await rm(directory, { recursive: true });
  });

  it('shows what was asked, what a run was made from and into, and compares two of them', async () => {
    const small = path.join(workspaceFolder(), 'small');
    const rule = { layers: ['*.up_proj'], keep: 0.5 };
    const first = await writeRun(root(), '20260104-000000-tensorize-0000b1', { created: '2026-01-04T00:00:00Z', title: 'First', kind: 'tensorize', options: { tensorize: [rule], output: small } }, { state: 'done' });
    await writeFile(path.join(first, 'result.json'), JSON.stringify(tensorizeResult(small, 'model.layers.0.mlp.up_proj')));
    const second = await writeRun(root(), '20260104-000001-tensorize-0000b2', { created: '2026-01-04T00:00:01Z', title: 'Second', model: small, options: { tensorize: [{ ...rule, keep: 0.3 }], output: `${small}-2` } }, { state: 'failed' });
    await until('both, the first with its result', () => (extension.runs.get(first)?.result && extension.runs.get(second) ? true : undefined));
    const children = (directory: string, id: string) => {
      const parent = extension.runsTree.getChildren(extension.runsTree.nodeOf(directory)).find(node => extension.runsTree.getTreeItem(node).id === `${directory}#${id}`);
      return extension.runsTree.getChildren(parent ?? assert.fail(id)).map(node => extension.runsTree.getTreeItem(node));
    };
    assert.deepEqual(children(second, 'model').map(({ label, contextValue }) => [label, contextValue]), [['First', 'detail.run']]);
    assert.deepEqual(children(first, 'output').map(({ label }) => label), ['Second']);
    assert.ok(children(first, 'request').some(({ label, description }) => label === 'tensorize.0.keep' && description === '0.5'));

    await vscode.commands.executeCommand('bondwise.compareRuns', second, [first, second]);
    const { input } = vscode.window.tabGroups.activeTabGroup.activeTab ?? {};
    assert.ok(input instanceof vscode.TabInputTextDiff);
    const [left, right] = await Promise.all([input.original, input.modified].map(async uri => (await vscode.workspace.openTextDocument(uri)).getText()));
    assert.match(left ?? '', /^# First\nDone\n[^]*tensorize\.0\.keep: 0\.5\n[^]*## Figures\nParameters: 7\.3 K → 6\.8 K/);
    assert.match(right ?? '', /^# Second\nFailed\n[^]*tensorize\.0\.keep: 0\.3\n/);
    await vscode.commands.executeCommand('workbench.action.closeActiveEditor');
    await rm(first, { recursive: true });
    await rm(second, { recursive: true });
  });

  it('runs again with changes as a plan where the questions ask for less than the run did', () => {
    const rules: TensorizeRequest['options']['tensorize'] = [{ layers: ['*.up_proj'], keep: 0.5 }, { layers: ['*.q_proj'], chi: 4, method: 'fisher' }];
    const request: TensorizeRequest = { kind: 'tensorize', version: 1, created: '', title: '', model: path.join(workspaceFolder(), 'base'), options: { tensorize: rules, output: path.join(workspaceFolder(), 'small'), evaluate: null } };
    assert.ok(isOfPlan(request));
    assert.ok(!isOfPlan({ ...request, options: { ...request.options, tensorize: [{ layers: ['*'], keep: 0.5, exclude: [] }] } }));
    const { file, text } = planFor(request);
    assert.equal(file, path.join(workspaceFolder(), 'small.bondwise.json'));
    const plan = new Plan(text, 'small.bondwise.json').file;
    // What reads plans makes objects without a prototype.
    assert.deepEqual([plan.model, plan.output, structuredClone(plan.tensorize)], ['base', 'small', rules]);
  });

  it('offers runs that have ended to be cleaned up, the largest first, with what each frees', async () => {
    const id = '20260102-000000-tensorize-0000aa';
    const directory = await writeRun(root(), id, { title: 'A large one', created: '2026-01-02T00:00:00Z' }, { state: 'failed' });
    await writeFile(path.join(directory, 'checkpoints', 'layer.safetensors'), Buffer.alloc(3_000_000));
    await until('seen', () => extension.runs.get(directory));
    const [first, ...rest] = await endedRuns(extension.runs.runs, Date.parse('2026-01-02T02:00:00Z'));
    assert.equal(first?.run.directory, directory);
    assert.equal(first.description, '3.0 MB · Failed · 2 h ago');
    assert.ok(rest.every(({ bytes }) => bytes <= first.bytes));
    assert.ok([first, ...rest].every(({ run }) => !extension.runs.active.includes(run)));
    await rm(directory, { recursive: true });
    await extension.runs.refresh();
  });
});
