import { describe, expect, it } from 'vitest';
import type { HealRequest, RunRequest, RunResult, TensorizeRequest } from '../../extension/protocol/types.ts';
import { withChanges } from '../../extension/runs/changes.ts';
import { EMPTY_SUMMARY } from '../../extension/runs/fold.ts';
import { madeFrom, madeInto } from '../../extension/runs/lineage.ts';
import { requestFacts } from '../../extension/runs/requestFacts.ts';
import type { Run } from '../../extension/runs/run.ts';

const base = { version: 1, created: '2026-01-01T00:00:00Z', title: 'a title', device: 'cpu', seed: 3 } as const;

function tensorize(model: string, output: string): TensorizeRequest {
  return { kind: 'tensorize', ...base, model, options: { tensorize: [{ layers: ['*.up_proj', 'a'], keep: 0.5, method: 'fisher' }], output, evaluate: null } };
}

function heal(model: string): HealRequest {
  return { kind: 'heal', ...base, model, options: { minutes: 5, learning_rate: 1e-3, output: '/out/healed', evaluate: { sequences: 99 } } };
}

function run(id: string, request: RunRequest, result?: Partial<RunResult>): Run {
  return { id, directory: `/runs/${id}`, state: 'done', title: id, created: `2026-01-01T00:00:0${id}Z`, summary: EMPTY_SUMMARY, request, ...(result && { result: result as RunResult }) };
}

it('tells a request as rows, without what was left empty', () => {
  expect(requestFacts(tensorize('/m', '/out'))).toEqual([
    ['kind', 'tensorize'],
    ['model', '/m'],
    ['tensorize.0.layers', '*.up_proj, a'],
    ['tensorize.0.keep', '0.5'],
    ['tensorize.0.method', 'fisher'],
    ['output', '/out'],
    ['device', 'cpu'],
    ['seed', '3'],
  ]);
});

describe('lineage', () => {
  const first = run('1', tensorize('/m', '/out/small'), { kind: 'tensorize', output: '/out/small' });
  // Another run made the folder anew: what came after was made from that one.
  const again = run('3', tensorize('/m', '/out/small'), { kind: 'tensorize', output: '/out/small' });
  const early = run('2', heal('../../out/small'));
  const late = run('4', { ...heal('/m'), model: '/out/small' });
  const all = [late, again, early, first];

  it('goes by the model that a run made last before', () => {
    expect(all.map(each => madeFrom(each, all).map(({ id }) => id))).toEqual([['3'], [], ['1'], []]);
    expect(madeInto(first, all)).toEqual([early]);
    expect(madeInto(again, all)).toEqual([late]);
    expect(madeInto(early, all)).toEqual([]);
  });
});

describe('running again with changes', () => {
  it('keeps what no question asks, and replaces what one asks by its answer', () => {
    const asked: HealRequest = { kind: 'heal', ...base, device: 'auto', title: 'new', seed: 0, model: '/m', options: { epochs: 2, distill: 1, output: '/out/2', evaluate: { sequences: 8 } } };
    expect(withChanges(heal('/m'), asked)).toEqual({ ...asked, seed: 3, options: { epochs: 2, distill: 1, learning_rate: 1e-3, output: '/out/2', evaluate: { sequences: 99 } } });
    expect(withChanges(heal('/m'), { ...asked, options: { ...asked.options, evaluate: null } }).options.evaluate).toBeNull();
  });

  it('keeps what belongs to a calibration text only with that text, and no prediction of another plan', () => {
    const before = tensorize('/m', '/out');
    before.options.calibration = { data: 'a.txt', sequences: 64 };
    before.options.predicted = { parameters: 1, bytes: 2, loss: 1, loss_error: 0.1 };
    const now = (data: string): TensorizeRequest => ({ ...tensorize('/m', '/out'), options: { ...tensorize('/m', '/out').options, calibration: { data } } });
    expect(withChanges(before, now('a.txt')).options).toEqual({ ...now('a.txt').options, calibration: { data: 'a.txt', sequences: 64 } });
    expect(withChanges(before, now('b.txt')).options.calibration).toEqual({ data: 'b.txt' });
  });
});
