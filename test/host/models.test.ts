import assert from 'node:assert/strict';
import { rename, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { after, before, describe, it } from 'mocha';
import * as vscode from 'vscode';
import type { Api } from '../../extension/extension.ts';
import { api, LLAMA, llamaShapes, temporary, until, workspaceFolder, writeCompressed, writeLlama } from './fixtures.ts';
import { writeModel } from '../unit/checkpoints.ts';

let extension: Api;
let outside: Awaited<ReturnType<typeof temporary>>;

/** The rows below a path of labels. */
async function rows(folder: string, ...labels: readonly string[]): Promise<vscode.TreeItem[]> {
  const tree = extension.modelsTree;
  const start = tree.nodeOf(folder);
  assert.ok(start, `${folder} is in the view`);
  let nodes = await tree.getChildren(start);
  for (const label of labels) {
    const node = nodes.find(each => tree.getTreeItem(each).label === label);
    assert.ok(node, `there is a row ${label}`);
    nodes = await tree.getChildren(node);
  }
  return nodes.map(node => tree.getTreeItem(node));
}

describe('the Models view', () => {
  before(async () => {
    extension = await api();
    outside = await temporary();
  });
  after(() => outside.remove());

  it('shows a model as blocks and layers, attention before MLP, then what is outside the blocks', async () => {
    const folder = await writeLlama(path.join(outside.folder, 'tiny'));
    await extension.models.add(folder);
    assert.deepEqual((await rows(folder)).map(({ label }) => label), ['Block 0', 'Block 1', 'Embedding', 'Norms', 'Head']);
    const layers = await rows(folder, 'Block 1');
    assert.deepEqual(layers.map(({ label }) => label), ['self_attn.o_proj', 'self_attn.q_proj', 'mlp.down_proj', 'mlp.up_proj', 'Norms and others']);
    const up = layers[3];
    assert.equal(up?.description, '1.5 kB · 10% · 48×16');
    assert.equal(up.contextValue, 'layer.dense');
    assert.equal(up.accessibilityInformation?.label, 'mlp.up_proj, 1.5 kB, 10%, 48×16, BF16, dense');
  });

  it('gives every row an id of its own', async () => {
    const folder = path.join(outside.folder, 'tiny');
    const all = [...(await rows(folder)), ...(await rows(folder, 'Block 0')), ...(await rows(folder, 'Block 1'))].map(({ id }) => id);
    assert.equal(new Set(all).size, all.length);
  });

  it('shows the state of compressed layers, with a badge', async () => {
    const folder = await writeCompressed(path.join(outside.folder, 'small'));
    await extension.models.add(folder);
    const node = extension.modelsTree.nodeOf(folder);
    assert.ok(node);
    const model = extension.modelsTree.getTreeItem(node);
    assert.equal(model.contextValue, 'model.mpo');
    assert.equal(model.resourceUri?.query, 'mpo');
    assert.match(String(model.description), /^93% of base · /);
    const up = (await rows(folder, 'Block 1')).find(({ label }) => label === 'mlp.up_proj');
    assert.match(String(up?.description), /^31% kept · \d+ B · [\d.]+% · χ 4 · 48×16$/);
    assert.equal(up?.contextValue, 'layer.mpo');
    assert.equal(up.resourceUri?.query, 'mpo');
  });

  it('finds a layer again for reveal, with its parents', () => {
    const folder = path.join(outside.folder, 'small');
    const tree = extension.modelsTree;
    const node = tree.nodeOf(folder, 'model.layers.1.mlp.up_proj');
    assert.ok(node);
    const labels = [];
    for (let each: typeof node | undefined = node; each; each = tree.getParent(each)) {
      labels.push(tree.getTreeItem(each).label);
    }
    assert.deepEqual(labels, ['mlp.up_proj', 'Block 1', 'small']);
    assert.equal(tree.nodeOf(folder, 'model.layers.7.mlp.up_proj'), undefined);
  });

  it('makes tooltips late, and nothing in them is interpreted', async () => {
    const evil = 'model.layers.0.mlp.[x](command:bondwise.deleteRun)<img src=x>$(trash)';
    const folder = await writeModel(path.join(outside.folder, 'evil'), LLAMA, { ...llamaShapes(1), [`${evil}.weight`]: [16, 16] });
    await extension.models.add(folder);
    const block = (await extension.modelsTree.getChildren(extension.modelsTree.nodeOf(folder)))[0];
    assert.ok(block);
    for (const node of await extension.modelsTree.getChildren(block)) {
      const item = extension.modelsTree.getTreeItem(node);
      assert.equal(item.tooltip, undefined);
      const { tooltip } = extension.modelsTree.resolveTreeItem(item, node);
      assert.ok(tooltip instanceof vscode.MarkdownString);
      assert.ok(!tooltip.isTrusted && !tooltip.supportHtml && !tooltip.supportThemeIcons);
      assert.doesNotMatch(tooltip.value, /(?<!\\)\[x/);
      assert.doesNotMatch(tooltip.value, /<img\s/);
    }
  });

  it('follows a folder that changes, comes back and goes', async () => {
    const folder = await writeLlama(path.join(workspaceFolder(), 'models', 'comes'), 1);
    await until('found in the workspace', () => extension.models.get(folder)?.model);
    await writeLlama(folder, 3);
    await until('three blocks', () => (extension.models.get(folder)?.model?.blocks.length === 3 ? true : undefined));
    const moved = `${folder}-moved`;
    await rename(folder, moved);
    await until('moved', () => (extension.models.get(moved)?.model && !extension.models.get(folder) ? true : undefined));
    await rm(path.join(workspaceFolder(), 'models'), { recursive: true });
    await until('gone', () => (extension.models.get(moved) ? undefined : true));
  });

  it('shows what is wrong with a broken checkpoint, and what to do', async () => {
    const folder = await writeLlama(path.join(workspaceFolder(), 'broken'), 1);
    await writeFile(path.join(folder, 'model.safetensors'), 'not a header');
    const problem = await until('the problem', () => extension.models.get(folder)?.problem);
    const node = extension.modelsTree.nodeOf(folder);
    assert.ok(node);
    const item = extension.modelsTree.getTreeItem(node);
    assert.equal(item.contextValue, 'error');
    assert.doesNotMatch(String(item.description), /[\\/]/);
    assert.match(String(item.description), / \(model\.safetensors\)$/);
    const { tooltip } = extension.modelsTree.resolveTreeItem(item, node);
    assert.ok(tooltip instanceof vscode.MarkdownString && problem.remedy.length > 0);
    await rm(folder, { recursive: true });
    await until('gone', () => (extension.models.get(folder) ? undefined : true));
  });

  it('keeps what the user removed out of the view until it is added again', async () => {
    const folder = await writeLlama(path.join(workspaceFolder(), 'hidden'), 1);
    await until('found', () => extension.models.get(folder));
    await extension.models.remove(folder);
    await extension.models.refresh();
    assert.equal(extension.models.get(folder), undefined);
    assert.ok((await extension.models.add(folder))?.model);
    await extension.models.remove(folder);
    await rm(folder, { recursive: true });
  });
});
