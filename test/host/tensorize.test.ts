import assert from 'node:assert/strict';
import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { after, before, describe, it } from 'mocha';
import * as vscode from 'vscode';
import { type Model, openModel } from '../../extension/checkpoint/index.ts';
import { patternMessage } from '../../extension/commands/pickLayers.ts';
import { calibrationText, chosenText, dataSetMessage, describeText, textItems } from '../../extension/commands/calibrationText.ts';
import { chosenBy, requestOf } from '../../extension/commands/tensorize.ts';
import { checkOutput, denseLayers, describeLayers, outputName, siteItems, targetItems } from '../../extension/commands/tensorizeSteps.ts';
import { isRunRequest } from '../../extension/protocol/validate.js';
import { BlockNode, childrenOf, LayerNode, ModelNode, type TreeNode } from '../../extension/views/modelNodes.ts';
import { temporary, writeCompressed, writeLlama } from './fixtures.ts';

const { Error: Wrong, Info, Warning } = vscode.InputBoxValidationSeverity;
let place: Awaited<ReturnType<typeof temporary>>;
let model: Model;
let compressed: Model;

function rowsOf(of: Model): { readonly root: ModelNode; readonly blocks: readonly BlockNode[]; readonly layers: readonly LayerNode[] } {
  const root = new ModelNode({ folder: of.folder, added: true, model: of });
  const blocks = childrenOf(root).filter((node): node is BlockNode => node instanceof BlockNode);
  return { root, blocks, layers: blocks.flatMap(block => childrenOf(block).filter((node): node is LayerNode => node instanceof LayerNode)) };
}

function named(of: Model, name: string): LayerNode {
  const row = rowsOf(of).layers.find(({ layer }) => layer.name === name);
  assert.ok(row, name);
  return row;
}

describe('Tensorize…', () => {
  before(async () => {
    place = await temporary();
    model = await openModel(await writeLlama(path.join(place.folder, 'tiny')));
    compressed = await openModel(await writeCompressed(path.join(place.folder, 'small')));
  });
  after(() => place.remove());

  it('takes the rows that were selected, each layer once', () => {
    const { blocks, layers, root } = rowsOf(model);
    const names = (...nodes: readonly (TreeNode | undefined)[]) => chosenBy([nodes[0], nodes])?.patterns;
    const own = layers.map(({ layer }) => layer.name);
    assert.deepEqual(chosenBy([layers[0]])?.patterns, own.slice(0, 1));
    assert.deepEqual(names(blocks[0], layers[0], layers[5]), [...own.slice(0, 4), own[5]]);
    assert.deepEqual(names(root), own);
    assert.equal(chosenBy([undefined, undefined]), undefined);
  });

  it('refuses what is no dense matrix, saying why, and layers of two models', () => {
    const done = named(compressed, 'model.layers.1.mlp.up_proj');
    assert.throws(() => chosenBy([done]), /model\.layers\.1\.mlp\.up_proj is tensorized already/);
    assert.throws(() => chosenBy([done, [done, rowsOf(model).layers[0]]]), /One model at a time/);
    assert.equal(chosenBy([rowsOf(compressed).blocks[1]])?.layers.length, 3);
  });

  it('shows the modes of each choice and where it gets slower than dense', () => {
    const items = siteItems(denseLayers([named(model, 'model.layers.0.mlp.up_proj').layer]));
    const ways = items.flatMap(({ way }) => (way ? [`${way.sites} ${way.method}`] : []));
    const interleaved = [2, 3, 4, 5].flatMap(sites => [`${sites} fisher`, `${sites} plain`]);
    assert.deepEqual(ways, ['low-rank fisher', 'low-rank plain', ...interleaved]);
    assert.equal(items[1]?.description, '1×16 · 48×1');
    assert.equal(items.find(({ label }) => label === '2 sites')?.description, 'slower than dense above χ 2 · 6×4 · 8×4');
  });

  it('offers several layers in sequence too, and says whose modes it shows', () => {
    const items = siteItems(denseLayers(rowsOf(model).layers.map(({ layer }) => layer)));
    assert.deepEqual(items.flatMap(({ way }) => (way?.sites === 'low-rank' ? [way.method] : [])), ['fisher', 'sequential', 'plain']);
    assert.equal(items.find(({ way }) => way?.method === 'sequential')?.description, '1×16 · 16×1 for 16×16');
  });

  it('shows parameters, size, share and speed of each bond dimension, and warns', () => {
    const layers = denseLayers([named(model, 'model.layers.0.mlp.up_proj').layer]);
    const labelled = (label: string, sites: 'low-rank' | 2) => targetItems(layers, sites, '').find(item => item.label === label);
    assert.equal(labelled('χ 4', 'low-rank')?.description, '31% kept · 240 parameters · 672 B');
    assert.equal(labelled('χ 4', 'low-rank')?.detail, '240 multiply-adds per token, 31% of dense');
    assert.match(labelled('χ 8', 2)?.detail ?? '', /2\.3 K multiply-adds per token, 3\.0× dense: slower than dense/);
  });

  it('takes what is typed, and says what is wrong with it', () => {
    const layers = denseLayers([named(model, 'model.layers.0.mlp.up_proj').layer]);
    const typed = (text: string) => {
      const items = targetItems(layers, 'low-rank', text);
      assert.equal(items.length, 1);
      return items[0];
    };
    assert.deepEqual(typed('5')?.target, { chi: 5 });
    assert.deepEqual(typed('30%')?.target, { keep: 0.3 });
    for (const [text, why] of [['0', 'at least 1'], ['-3', 'at least 1'], ['abc', 'not a number'], ['0.01%', 'too little']] as const) {
      assert.equal(typed(text)?.target, undefined);
      assert.ok(typed(text)?.label.includes(why), `${text}: ${typed(text)?.label ?? ''}`);
    }
    assert.match(typed('1000')?.detail ?? '', /100% of dense · lossless/);
  });

  it('proposes a name, and checks the one that is typed', async () => {
    const { layers } = rowsOf(model);
    const [first] = layers.map(({ layer }) => layer);
    assert.ok(first);
    assert.equal(outputName(model, [first], 'low-rank', { keep: 0.3 }), 'tiny-0-o_proj-30pct');
    assert.equal(outputName(model, layers.map(({ layer }) => layer), 3, { chi: 4 }), 'tiny-8layers-3sites-chi4');
    assert.equal(describeLayers(model, rowsOf(model).blocks[1]?.block.layers ?? []), 'block 1');
    const severity = async (name: string) => (await checkOutput(place.folder, name, model))?.severity;
    await mkdir(path.join(place.folder, 'other'));
    await writeFile(path.join(place.folder, 'file'), '');
    assert.equal(await severity('new'), undefined);
    assert.equal(await severity('small'), Warning);
    for (const name of ['', '.', '..', 'a/b', '.hidden', 'tiny', 'other', 'file']) {
      assert.equal(await severity(name), Wrong, name);
    }
  });

  it('tells what a pattern matches as it is typed', () => {
    assert.equal(patternMessage(model, '*.q_proj')?.severity, Info);
    assert.match(patternMessage(model, '*.q_proj')?.message ?? '', /Matches 2 layers, 512 parameters: model\.layers\.0\.self_attn\.q_proj …/);
    for (const pattern of ['', '*.nothing', 're:(']) {
      assert.equal(patternMessage(model, pattern)?.severity, Wrong, pattern);
    }
    assert.match(patternMessage(compressed, 'model.layers.1.mlp.up_proj')?.message ?? '', /tensorized or quantized already/);
  });

  it('asks the engine for exactly that', () => {
    const chosen = chosenBy([named(model, 'model.layers.1.mlp.down_proj')]);
    assert.ok(chosen);
    const request = requestOf(chosen, { sites: 3, method: 'plain', target: { keep: 0.25 }, name: 'new', measure: true });
    assert.ok(isRunRequest(request), JSON.stringify(isRunRequest.errors));
    assert.equal(request.title, 'Tensorize 1.down_proj, 25%');
    assert.equal(request.model, model.folder);
    assert.deepEqual(request.options, {
      tensorize: [{ layers: ['model.layers.1.mlp.down_proj'], sites: 3, method: 'plain', keep: 0.25 }],
      output: path.join(place.folder, 'new'),
      evaluate: { data: 'builtin', length: 512, sequences: 8, prompt: 'The capital of France is' },
    });
    const ordered = requestOf(chosen, { sites: 'low-rank', method: 'sequential', target: { chi: 4 }, name: 'new', measure: false });
    assert.ok(isRunRequest(ordered), JSON.stringify(isRunRequest.errors));
    assert.deepEqual([ordered.options.tensorize[0].method, ordered.options.calibration], ['sequential', { data: 'builtin' }]);
    const quiet = requestOf(chosen, { sites: 'low-rank', method: 'fisher', target: { chi: 4 }, name: 'new', measure: false });
    assert.equal('evaluate' in quiet.options && quiet.options.evaluate, null);
    assert.deepEqual('calibration' in quiet.options && quiet.options.calibration, { data: 'builtin' });
  });

  it('names the text that data-aware methods learn from, and offers others', async () => {
    const scope = vscode.Uri.file(model.folder);
    const settings = vscode.workspace.getConfiguration('bondwise.calibration');
    assert.equal(chosenText(scope), undefined);
    assert.equal(calibrationText(scope), 'builtin');
    await settings.update('data', '/elsewhere/my.jsonl', vscode.ConfigurationTarget.Global);
    try {
      assert.equal(calibrationText(scope), '/elsewhere/my.jsonl');
    } finally {
      await settings.update('data', undefined, vscode.ConfigurationTarget.Global);
    }
    assert.deepEqual(['builtin', 'self', '/a/b/my.txt', 'org/name'].map(describeText), ['built-in text', 'the model’s own text', 'my.txt', 'data set org/name']);
    const offered = (current: string) => textItems(current).flatMap(({ text, ask }) => text ?? ask ?? []);
    assert.deepEqual(offered('builtin'), ['builtin', 'self', 'file', 'hub']);
    assert.deepEqual(offered('org/name'), ['org/name', 'builtin', 'self', 'file', 'hub']);
    assert.equal(dataSetMessage('org/name:part'), undefined);
    for (const id of ['', 'a b', 'a/b/c', 'my.txt']) {
      assert.equal(dataSetMessage(id)?.severity, Wrong, id);
    }
  });
});
