/** What “Benchmark Models…” and “Export…” ask and what they ask the engine for. */
import assert from 'node:assert/strict';
import { describe, it } from 'mocha';
import * as vscode from 'vscode';
import type { Model } from '../../extension/checkpoint/index.ts';
import { benchmarkRequest } from '../../extension/commands/benchmark.ts';
import { limitItems, PAPER_TASKS, type Part, shotsMessage, taskItems } from '../../extension/commands/benchmarkSteps.ts';
import { exportRequest } from '../../extension/commands/export.ts';
import { isRunRequest } from '../../extension/protocol/validate.js';

const models = ['original', 'small'].map(name => ({ name, folder: `/models/${name}` }) as Model);
const everything = new Set<Part>(['perplexity', 'samples', 'footprint', 'speed', 'training']);

describe('Benchmark Models…', () => {
  it('asks for what was chosen, in a request that the engine takes', () => {
    const request = benchmarkRequest({ models, tasks: ['boolq'], limit: 20, shots: 0, datasets: '/data', parts: everything, chat: false }, '/models/original.benchmark.json');
    assert.ok(isRunRequest(request), JSON.stringify(isRunRequest.errors));
    assert.equal(request.kind, 'benchmark');
    const { options } = request;
    assert.deepEqual(options.models, ['/models/original', '/models/small']);
    assert.deepEqual([options.tasks, options.limit, options.shots, options.datasets], [['boolq'], 20, 0, '/data']);
    assert.ok(options.perplexity && options.speed && options.training && options.footprint && options.prompts?.length === 1);
  });

  it('leaves out what was not chosen, and takes all items and the hub where nothing is said', () => {
    const request = benchmarkRequest({ models, tasks: [], limit: undefined, shots: undefined, datasets: undefined, parts: new Set(), chat: true }, '/x.benchmark.json');
    assert.ok(isRunRequest(request));
    const { options } = request;
    assert.deepEqual([options.tasks, options.limit, options.shots, options.datasets, options.perplexity, options.prompts], [[], null, null, null, null, []]);
    assert.ok(options.chat && !options.speed && !options.footprint);
  });

  it('offers the paper’s tasks first, then what is often reported, then all others', () => {
    const items = taskItems({ tasks: [{ name: 'aa', kind: 'task' }, { name: 'mmlu', kind: 'group' }, { name: 'piqa', kind: 'task' }] }, ['zz']);
    const names = items.flatMap(({ name }) => name ?? []);
    assert.deepEqual(names, ['zz', ...PAPER_TASKS, 'piqa', 'aa']);
    assert.equal(items.find(({ name }) => name === 'mmlu')?.description, 'group');
  });

  it('says how sure a number of items makes a score, and what is no number of examples', () => {
    assert.match(limitItems()[2]?.description ?? '', /5\.0 points/);
    assert.equal(shotsMessage(''), undefined);
    assert.equal(shotsMessage('5'), undefined);
    assert.equal(shotsMessage('five')?.severity, vscode.InputBoxValidationSeverity.Error);
  });
});

describe('Export…', () => {
  it('asks for dense weights', () => {
    const request = exportRequest({ folder: '/models/small', name: 'small' }, '/models/small-dense');
    assert.ok(isRunRequest(request) && request.kind === 'export');
    assert.deepEqual(request.options, { dense: true, output: '/models/small-dense' });
  });
});
