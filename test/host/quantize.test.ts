import assert from 'node:assert/strict';
import path from 'node:path';
import { after, before, describe, it } from 'mocha';
import { type Model, openModel } from '../../extension/checkpoint/index.ts';
import { quantizable, quantizeRequest } from '../../extension/commands/quantize.ts';
import { floatLayers, quantizedName, schemeItems } from '../../extension/commands/quantizeSteps.ts';
import { isRunRequest } from '../../extension/protocol/validate.js';
import { BlockNode, childrenOf, LayerNode, ModelNode } from '../../extension/views/modelNodes.ts';
import { temporary, writeCompressed, writeLlama } from './fixtures.ts';

let place: Awaited<ReturnType<typeof temporary>>;
let model: Model;
let compressed: Model;

function rows(of: Model): readonly LayerNode[] {
  const root = new ModelNode({ folder: of.folder, added: true, model: of });
  return childrenOf(root).flatMap(node => (node instanceof BlockNode ? childrenOf(node).filter(row => row instanceof LayerNode) : []));
}

describe('Quantize…', () => {
  before(async () => {
    place = await temporary();
    model = await openModel(await writeLlama(path.join(place.folder, 'tiny')));
    compressed = await openModel(await writeCompressed(path.join(place.folder, 'small')));
  });
  after(() => place.remove());

  it('takes dense layers, and cores where there is nothing else', () => {
    const root = new ModelNode({ folder: compressed.folder, added: true, model: compressed });
    const chosen = quantizable([root]);
    assert.ok(chosen);
    assert.ok(chosen.layers.every(({ state }) => state === 'dense'));
    const mpo = rows(compressed).find(({ layer }) => layer.state === 'mpo');
    assert.ok(mpo);
    assert.deepEqual(quantizable([mpo])?.patterns, [mpo.layer.name]);
    assert.equal(quantizable([undefined]), undefined);
    assert.throws(() => quantizable([mpo, [mpo, rows(model)[0]]]), /One model at a time/);
  });

  it('shows the size of the new folder and the bits of each choice', () => {
    const layers = model.blocks.flatMap(block => block.layers);
    const items = schemeItems(model, layers, '').filter(({ way }) => way);
    assert.ok(items.length >= 6);
    for (const { description = '' } of items) {
      assert.match(description, /→ .+ \(\d.*%\) · \d+\.\d\d bits in these layers/);
    }
    const numbers = floatLayers(layers).reduce((sum, layer) => sum + layer.out * layer.in, 0);
    assert.equal(numbers, layers.reduce((sum, { shape: [out = 0, inputs = 0] }) => sum + out * inputs, 0));
  });

  it('takes what is typed, and says what is wrong with it', () => {
    const layers = model.blocks.flatMap(block => block.layers);
    const typed = (text: string) => schemeItems(model, layers, text)[0];
    assert.deepEqual(typed('3.5 bits')?.way, { budget: '3.5bits' });
    assert.match(typed('nothing')?.label ?? '', /is not a size/);
    assert.equal(typed('17 bits')?.way, undefined);
  });

  it('asks the engine for it', () => {
    const [row] = rows(model);
    assert.ok(row);
    const chosen = quantizable([row]);
    assert.ok(chosen);
    const request = quantizeRequest(chosen, { way: { scheme: 'compensated-3' }, name: 'out', measure: false });
    assert.ok(isRunRequest(request));
    assert.deepEqual(request.options.quantize, [{ layers: [row.layer.name], scheme: 'compensated-3' }]);
    assert.equal(request.options.calibration?.data, 'builtin');
    const budget = quantizeRequest(chosen, { way: { budget: '3.5bits' }, name: 'out', measure: true });
    assert.ok(isRunRequest(budget));
    assert.equal(budget.options.budget?.target, '3.5bits');
    assert.equal(quantizedName(model, { budget: '3.5bits' }), `${model.name}-3-5bits`);
  });
});
