import { describe, expect, test } from 'vitest';
import { isPlanFor, keptBy, resultOf } from '../../extension/plan/overlay.ts';
import type { PlanFile, PlanResult } from '../../extension/protocol/types.ts';
import { curve, profileLayers, sensitivity } from './profiles.ts';

const layers = profileLayers(2);
const profile = sensitivity({ layers, curves: layers.map(layer => curve(layer, 1)) });
const names = (pattern: RegExp) => layers.map(({ name }) => name).filter(name => pattern.test(name));
const plan = (...tensorize: NonNullable<PlanFile['tensorize']>): PlanFile => ({ model: '../base', output: 'out', tensorize });

describe('a plan is for a profile', () => {
  const there = { file: '/work/base.sensitivity.json', folder: '/models/base' };
  const budget = { profile: '../work/base.sensitivity.json', target: '60%' };

  test('that its budget names', () => {
    expect(isPlanFor({ model: 'elsewhere', budget }, '/plans/p.bondwise.json', there)).toBe(true);
    expect(isPlanFor({ model: '../models/base', budget: { ...budget, profile: 'other.sensitivity.json' } }, '/plans/p.bondwise.json', there)).toBe(false);
  });

  test('of its model, where it has no budget', () => {
    expect(isPlanFor({ model: '../models/base' }, '/plans/p.bondwise.json', there)).toBe(true);
    expect(isPlanFor({ model: '../models/base' }, '/a/plans/p.bondwise.json', there)).toBe(false);
    expect(isPlanFor({ model: '../models/base' }, '/plans/p.bondwise.json', { ...there, folder: undefined })).toBe(false);
  });
});

describe('the part that a plan keeps', () => {
  test('is that of the first rule that matches, as χ, share or error say', () => {
    const kept = keptBy(
      plan(
        { layers: ['model.layers.0.self_attn.q_proj'], chi: 4 },
        { layers: ['*.self_attn.*'], exclude: ['re:.*1\\.self_attn\\.o_proj'], keep: 0.3 },
        // The curve's error is 1 − χ/16: χ 8 is the first that has a half.
        { layers: ['*.1.mlp.down_proj'], error: 0.5 },
      ),
      profile,
    );
    const [square, wide] = [16 * 16, 48 * 16];
    expect(kept).toEqual({
      'model.layers.0.self_attn.q_proj': (4 * 28) / square,
      'model.layers.0.self_attn.o_proj': (2 * 30) / square,
      'model.layers.1.self_attn.q_proj': (2 * 30) / square,
      'model.layers.1.mlp.down_proj': (8 * 56) / wide,
    });
  });

  test('is that of the sites', () => {
    // Two sites of 4×4 each: 16·2 + 2·16 − 2² numbers at χ 2.
    const kept = keptBy(plan({ layers: names(/q_proj/), chi: 2, sites: 2 }), profile);
    expect(Object.values(kept)).toEqual([60 / 256, 60 / 256]);
    expect(keptBy(plan({ layers: names(/0.*q_proj/), chi: 1, out_modes: [2, 8], in_modes: [8, 2] }), profile)).toEqual({ 'model.layers.0.self_attn.q_proj': 31 / 256 });
  });

  test('is not known of a pattern that matches nothing here or cannot be read, and of a share that is too small', () => {
    expect(keptBy(plan({ layers: ['lm_head', 're:('], chi: 4 }, { layers: ['*'], keep: 0.01 }), profile)).toEqual({});
    expect(keptBy(plan({ layers: ['*.q_proj'], error: 0.5 }), { layers, curves: [] })).toEqual({});
  });
});

test('what the planner predicted holds while the rules make of the model what it planned', () => {
  const rules = plan({ layers: ['*.q_proj'], chi: 4 });
  const predicted = { parameters: 10_000 - 2 * (256 - 112), bytes: 5, loss: 0.1, loss_error: 0.01 };
  const answer: PlanResult = { output: '', parameters: 10_000, original_parameters: 10_000, bytes: 20_000, original_bytes: 20_000, predicted: { ...predicted, loss: 0 }, layers: {}, exchange: [] };
  const result = (predictedThere: NonNullable<PlanFile['predicted']> | null, of: PlanFile = rules) => resultOf({ predicted: predictedThere }, keptBy(of, profile), profile, answer);
  expect(result(predicted)).toEqual({ ...answer, parameters: predicted.parameters, bytes: 5, predicted, layers: { 'model.layers.0.self_attn.q_proj': 0.4375, 'model.layers.1.self_attn.q_proj': 0.4375 } });
  expect(result(predicted, plan({ layers: ['*.q_proj'], chi: 3 }))).toBeUndefined();
  expect(result(null)).toBeUndefined();
});
