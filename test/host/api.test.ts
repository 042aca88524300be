import assert from 'node:assert/strict';
import { rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { after, before, describe, it } from 'mocha';
import * as vscode from 'vscode';
import type { BondwiseApi, ProfileInfo, RunInfo } from '../../extension/api/bondwise.d.ts';
import { fingerprintOf } from '../../extension/checkpoint/index.ts';
import { curve, profileLayers, sensitivity } from '../unit/profiles.ts';
import { until, workspaceFolder, writeLlama, writeRun, writeStatus } from './fixtures.ts';

let bondwise: BondwiseApi;
let folder: string;

describe('the interface for other extensions', () => {
  before(async () => {
    // As another extension would come by it.
    const extension = vscode.extensions.getExtension<BondwiseApi>('bondwise.bondwise');
    bondwise = (await extension?.activate()) ?? assert.fail('the extension is there');
    const changed = new Promise<void>(resolve => bondwise.onDidChangeModels(() => resolve()));
    folder = await writeLlama(path.join(workspaceFolder(), 'tiny-api'));
    await changed;
    await vscode.workspace.getConfiguration('bondwise').update('python', process.env.BONDWISE_TEST_PYTHON, vscode.ConfigurationTarget.Global);
  });
  after(async () => {
    await vscode.workspace.getConfiguration('bondwise').update('python', undefined, vscode.ConfigurationTarget.Global);
    await rm(folder, { recursive: true, force: true });
  });

  it('has a version, and lists models and layers', async () => {
    assert.equal(bondwise.version, 1);
    const models = await bondwise.getModels();
    const { architecture, parameters, blocks } = models.find(model => model.folder === folder) ?? assert.fail('the model is listed');
    assert.deepEqual({ architecture, blocks }, { architecture: 'LlamaForCausalLM', blocks: 2 });
    const layers = await bondwise.getLayers(folder);
    assert.equal(layers.length, 8);
    const up = layers.find(({ name }) => name === 'model.layers.1.mlp.up_proj');
    assert.deepEqual([up?.block, up?.shape, up?.state, up?.parameters], [1, [48, 16], 'dense', 768]);
    assert.ok((parameters ?? 0) > layers.reduce((sum, layer) => sum + layer.parameters, 0));
    await assert.rejects(bondwise.getLayers(path.join(folder, 'nothing')), /cannot be read/);
  });

  it('reads profiles, the most sensitive layer first', async () => {
    const layers = profileLayers(2);
    const file = path.join(workspaceFolder(), 'tiny-api.sensitivity.json');
    await writeFile(file, JSON.stringify(sensitivity({ model: { path: 'tiny-api', name: 'tiny-api', fingerprint: await fingerprintOf(folder) }, layers, curves: layers.map((layer, i) => curve(layer, 1 + i)) })));
    try {
      let found: readonly ProfileInfo[] = [];
      for (let tries = 0; tries < 100 && found.length === 0; tries++) {
        await new Promise(resolve => setTimeout(resolve, 100));
        found = await bondwise.getProfiles(folder);
      }
      const rises = found[0]?.layers.map(({ rise }) => rise) ?? [];
      assert.equal(rises.length, layers.length);
      assert.deepEqual(rises, rises.toSorted((a, b) => b - a));
    } finally {
      await rm(file);
    }
  });

  it('tells of runs as they get further', async () => {
    const seen: RunInfo[] = [];
    const listening = bondwise.onDidChangeRuns(runs => seen.push(...runs));
    const directory = await writeRun(path.join(workspaceFolder(), '.bondwise', 'runs'), '20260103-000000-tensorize-0000a1', { title: 'Of another' }, { state: 'cancelled' });
    await until('the new run', () => seen.find(run => run.directory === directory && run.state === 'cancelled'));
    await writeStatus(directory, { state: 'failed', error: { message: 'It broke.', remedy: 'Mend it.' } });
    await until('its new state', () => seen.find(run => run.directory === directory && run.state === 'failed'));
    assert.deepEqual(bondwise.getRuns().find(run => run.directory === directory)?.error, { message: 'It broke.', remedy: 'Mend it.' });
    listening.dispose();
    await rm(directory, { recursive: true });
    await assert.rejects(bondwise.cancelRun(path.join(directory, 'other')), /There is no run/);
  });

  it('starts a run that the schema allows, and no other', async () => {
    await assert.rejects(bondwise.startRun({ kind: 'tensorize', title: 'x', model: folder, options: { tensorize: [{ layer: 'a' }], output: '/x' } }), /The request cannot be run: /);
    const output = path.join(workspaceFolder(), 'tiny-api-small');
    const run = await bondwise.startRun({ kind: 'tensorize', title: 'From another extension', model: folder, options: { tensorize: [{ layers: ['*.up_proj'], chi: 4 }], output } });
    assert.deepEqual([run?.kind, run?.title, run?.output], ['tensorize', 'From another extension', output]);
    await until('its end', () => bondwise.getRuns().find(({ id, state }) => id === run?.id && ['done', 'failed'].includes(state)), 60_000);
    await rm(output, { recursive: true, force: true });
  }).timeout(90_000);
});
