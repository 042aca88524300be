import { readFileSync } from 'node:fs';
import path from 'node:path';
import { Ajv } from 'ajv';
import { parse, type ParseError } from 'jsonc-parser';
import { describe, expect, test } from 'vitest';
import type { Layer, Model } from '../../extension/checkpoint/index.ts';
import { pointAt, parseBudget } from '../../extension/plan/budget.ts';
import { fillPlan } from '../../extension/plan/editPlan.ts';
import { Plan, PlanError, type PlanContent } from '../../extension/plan/planFile.ts';
import type { ExchangePoint, PlanFile, TensorizeRule } from '../../extension/protocol/types.ts';

function layer(name: string, other: Partial<Layer> = {}): Layer {
  return { name, group: 'mlp', shape: [8, 4], dtype: 'BF16', parameters: 32, bytes: 64, state: 'dense', ...other };
}

const layers = ['q', 'k', 'up', 'down'].flatMap(kind => [0, 1].map(block => layer(`b.${block}.${kind}`)));
const model: Pick<Model, 'blocks'> = { blocks: [{ index: 0, name: 'b', layers, other: [], parameters: 0, bytes: 0 }] };

const PLAN = `{
  // small enough for the phone
  "model": "../m",
  "output": "out", /* beside */
  "tensorize": [
    // attention first
    { "layers": ["*.q"], "chi": 3 },
    { "layers": ["b.0.k"], "keep": 0.5 }, // gently
  ],
}
`;

function mistake(text: string, within?: Pick<Model, 'blocks'>): PlanError {
  try {
    const plan = new Plan(text, 'p.bondwise.json');
    if (within) plan.layersIn(within);
  } catch (error) {
    if (error instanceof PlanError) return error;
    throw error;
  }
  throw new Error('no mistake was found');
}

describe('reading a plan', () => {
  test('what is quantized heals where something trains beside the bits', () => {
    const plan = (scheme: string) => JSON.stringify({ model: 'm', output: 'o', quantize: [{ layers: ['*'], scheme }], heal: { minutes: 1 } });
    expect(mistake(plan('nf4')).message).toContain('beside the bits of bitsandbytes nothing trains');
    expect(new Plan(plan('compensated-3'), 'p').file.heal?.minutes).toBe(1);
  });

  test('comments and trailing commas are allowed', () => {
    const { file } = new Plan(PLAN, 'p');
    expect(file.tensorize).toEqual([{ layers: ['*.q'], chi: 3 }, { layers: ['b.0.k'], keep: 0.5 }]);
  });

  test.each([
    ['', 1, 'it is not JSON: value expected'],
    ['['.repeat(200_000), 1, 'it is not JSON: it nests too deep'],
    ['{\n "model": "m"\n "output": "o"}', 3, 'comma expected'],
    [PLAN.replace('"output"', '"outptu"'), 1, "must have required property 'output'"],
    [PLAN.replace('"chi": 3', '"chi": 0'), 7, 'tensorize.0.chi must be >= 1'],
    [PLAN.replace('"chi": 3', '"chi": "3"'), 7, 'must be integer'],
    [PLAN.replace('"chi": 3', '"chi": 3, "xi": 2'), 7, 'there is no key “xi” in tensorize.0'],
    [PLAN.replace('"keep": 0.5', '"keep": 0.5,\n "chi": 2'), 8, 'rule 2 has chi and keep'],
    [PLAN.replace(', "keep": 0.5', ''), 8, 'rule 2 has no size'],
    [PLAN.replace('"chi": 3', '"chi": 3, "in_modes": [2, 2]'), 7, 'out_modes'],
    [PLAN.replace('"model"', '"version": 2, "model"'), 3, 'newer Bondwise'],
    ['[]', 1, 'must be object'],
  ])('a mistake is named with its line %#', (text, line, message) => {
    const error = mistake(text);
    expect(error.message).toContain(`p.bondwise.json:${line}: `);
    expect(error.message).toContain(message);
    expect([error.line, error.remedy === '']).toEqual([line, false]);
  });

  test('rules take their layers in turn', () => {
    const text = PLAN.replace('["b.0.k"]', '["b.0.*"], "exclude": ["*.up"]');
    const found = new Plan(text, 'p').layersIn(model);
    expect(found.map(each => each.map(({ name }) => name))).toEqual([['b.0.q', 'b.1.q'], ['b.0.k', 'b.0.down']]);
  });

  test.each([
    [PLAN.replace('*.q', '*.v'), 7, 'matches no layer'],
    [PLAN.replace('["b.0.k"]', '["b.0.k"],\n "exclude": ["*.k",\n "*.v"]'), 10, 'matches no layer'],
    [PLAN.replace('["b.0.k"]', '["b.1.q", "b.0.q"]'), 8, 'rule 2 has no layer left: all 2'],
    [PLAN.replace('["b.0.k"]', '["re:("]'), 8, 'regular expression'],
  ])('what does not fit the model is named with its line %#', (text, line, message) => {
    const error = mistake(text, model);
    expect([error.line, error.message]).toEqual([line, expect.stringContaining(message)]);
  });

  test('layers that cannot become MPOs', () => {
    const others = [layer('b.0.q', { state: 'mpo' }), layer('b.0.k', { shape: [2, 8, 4] })];
    const of = (first: Layer): Pick<Model, 'blocks'> => ({ blocks: [{ index: 0, name: 'b', layers: [first], other: [], parameters: 0, bytes: 0 }] });
    expect(mistake('{"model":"m","output":"o","tensorize":[{"layers":["*"],"chi":1}]}', of(others[0] ?? layer(''))).message).toContain('is an MPO already');
    expect(mistake('{"model":"m","output":"o","tensorize":[{"layers":["*"],"chi":1}]}', of(others[1] ?? layer(''))).message).toContain('2×8×4');
  });
});

const rule = (name: string, chi: number): TensorizeRule => ({ layers: [name], chi, sites: 'low-rank' });
const budget = { profile: 'm.sensitivity.json', target: '60%', exclude: ['*.down'], floor: 0.1, ceiling: 0.95 };
const predicted = { parameters: 10, bytes: 20, loss: 0.5, loss_error: 0.1 };

function read(text: string): PlanContent {
  return new Plan(text, 'p').file;
}

describe('filling a plan that is there', () => {
  const HAND = `{
  // mine
  "model": "../m",
  "output": "out", // there
  "budget": {
    "profile": "m.sensitivity.json", // of last week
    "target": "80%",
    "exclude": ["*.down"],
    "floor": 0.2, "ceiling": 0.95
  },
  "tensorize": [
    // the first of them
    { "layers": ["b.0.q"], "chi": 3, /* tight */ "sites": "low-rank" }, // looked at twice
    { "layers": ["*.k"], "keep": 0.5 },
    { "layers": ["b.0.up"], "chi": 2 }, // stays as it is
    { "layers": ["b.1.up"], "keep": 0.3 } // was by hand
  ],
  "evaluate": { "length": 64 } // quick
}
`;

  test('only what changed changes', () => {
    const filled = fillPlan(HAND, { budget, predicted, tensorize: [rule('b.0.q', 5), rule('b.1.q', 4), rule('b.0.up', 2), rule('b.1.up', 7), rule('b.1.k', 9)] });
    expect(filled).toBe(`{
  // mine
  "model": "../m",
  "output": "out", // there
  "predicted": {
    "parameters": 10,
    "bytes": 20,
    "loss": 0.5,
    "loss_error": 0.1
  },
  "budget": {
    "profile": "m.sensitivity.json", // of last week
    "target": "60%",
    "exclude": ["*.down"],
    "floor": 0.1, "ceiling": 0.95
  },
  "tensorize": [
    // the first of them
    { "layers": ["b.0.q"], "chi": 5, /* tight */ "sites": "low-rank" }, // looked at twice
    { "layers": ["b.1.q"], "chi": 4, "sites": "low-rank" },
    { "layers": ["b.0.up"], "chi": 2 }, // stays as it is
    { "layers": ["b.1.up"], "chi": 7, "sites": "low-rank" }, // was by hand
    { "layers": ["b.1.k"], "chi": 9, "sites": "low-rank" }
  ],
  "evaluate": { "length": 64 } // quick
}
`);
    expect(fillPlan(filled, { budget, predicted, tensorize: read(filled).tensorize })).toBe(filled);
  });

  const comments = (text: string) => Array.from(text.matchAll(/\/\/.*|\/\*.*?\*\//g), ([comment]) => comment);

  test.each([
    [[]],
    [[rule('b.1.up', 1)]],
    [[rule('b.1.up', 1), rule('b.0.q', 1)]],
    [[rule('b.0.up', 2), rule('b.0.q', 3), rule('b.1.up', 1), rule('x', 2)]],
    [[rule('x', 1), rule('y', 2)]],
  ])('the rules are those that were planned, in their order, and no comment outside a removed rule is lost %#', wanted => {
    for (const text of [HAND, HAND.replace('// was by hand', ',').replace('0.3 } ,', '0.3 }, // was by hand'), HAND.replaceAll('\n', '\r\n')]) {
      const filled = fillPlan(text, { budget, predicted, tensorize: wanted });
      const errors: ParseError[] = [];
      const value = parse(filled, errors, { allowTrailingComma: true }) as PlanFile;
      expect(errors).toEqual([]);
      expect(value.tensorize?.map(({ layers: names, chi }) => [names[0], chi])).toEqual(wanted.map(({ layers: names, chi }) => [names[0], chi]));
      expect([value.model, value.output, value.budget, value.predicted, value.evaluate]).toEqual(['../m', 'out', budget, predicted, { length: 64 }]);
      const kept = wanted.some(({ layers: [name] }) => name === 'b.0.q') && wanted[1]?.layers[0] !== 'b.0.q';
      expect(comments(filled).filter(comment => comment !== '/* tight */')).toEqual(comments(text).filter(comment => comment !== '/* tight */'));
      if (kept) expect(filled).toContain('/* tight */');
    }
  });

  test('a plan in one line, and one without rules to keep', () => {
    const bare = '{"model":"m","output":"o","tensorize":[{"layers":["a"],"chi":1}]}';
    const filled = fillPlan(bare, { budget, predicted, tensorize: [rule('b', 2), rule('a', 3), rule('c', 4)] });
    expect(read(filled).tensorize.map(({ layers: [name], chi }) => [name, chi])).toEqual([['b', 2], ['a', 3], ['c', 4]]);
    expect(read(filled).budget).toEqual(budget);
    const last = fillPlan('{"tensorize":[ { "layers": ["a"], "chi": 1 } ], "model":"m","output":"o"}', { budget, predicted, tensorize: [rule('a', 3)] });
    expect(read(last).predicted).toEqual(predicted);
    const without = fillPlan(filled, { budget: null, predicted: null, tensorize: [rule('a', 3)] });
    expect(Object.keys(read(without))).toEqual(['model', 'output', 'tensorize', 'quantize']);
  });

  test('another method is another rule, and a calibration text that is there stays', () => {
    const text = '{\n  "model": "m",\n  "output": "o",\n  "tensorize": [\n    { "layers": ["a"], "chi": 1 } // mine\n  ]\n}';
    const aware = fillPlan(text, { budget, predicted, calibration: { data: 'builtin' }, tensorize: [{ ...rule('a', 1), method: 'fisher' }] });
    expect(read(aware).tensorize).toEqual([{ layers: ['a'], method: 'fisher', chi: 1, sites: 'low-rank' }]);
    expect(aware).toContain('// mine');
    expect(read(aware).calibration).toEqual({ data: 'builtin' });
    const own = aware.replace('"builtin"', '"own.txt"');
    expect(read(fillPlan(own, { budget, predicted, calibration: { data: 'builtin' }, tensorize: [rule('a', 1)] }))).toMatchObject({
      calibration: { data: 'own.txt' },
      tensorize: [{ chi: 1 }],
    });
  });

  test('a plan of a large model is filled in well under a second', () => {
    const many = Array.from({ length: 400 }, (_, i) => rule(`model.layers.${i}.self_attn.q_proj`, i + 1));
    const text = fillPlan(HAND, { budget, predicted, tensorize: many });
    const begun = performance.now();
    const again = fillPlan(text, { budget, predicted, tensorize: many.map((each, i) => (i % 3 === 0 ? { ...each, chi: 9 } : each)).filter((_, i) => i % 7 !== 0) });
    expect(performance.now() - begun).toBeLessThan(1000);
    expect(read(again).tensorize).toHaveLength(342);
  });
});

describe('budgets', () => {
  test.each([
    ['60%', { unit: 'parameters', share: 0.6 }],
    [' 12.5 % ', { unit: 'parameters', share: 0.125 }],
    ['2GB', { unit: 'bytes', bytes: 2e9 }],
    ['500 mb', { unit: 'bytes', bytes: 5e8 }],
    ['1.5GiB', { unit: 'bytes', bytes: 1.5 * 2 ** 30 }],
    ['perplexity < 30', { unit: 'perplexity', below: 30 }],
    ['', undefined],
  ])('%s', (text, expected) => expect(parseBudget(text)).toEqual(expected));

  test.each(['60', '0%', '101%', '-5%', '0GB', 'two', 'perplexity<1', 'perplexity>3', '1e3%'])('%s is none', text => {
    const found = parseBudget(text);
    expect(found && 'problem' in found && found.remedy).toBeTruthy();
  });

  const at = (parameters: number, loss: number): ExchangePoint => ({ parameters, bytes: 2 * parameters, loss, loss_error: loss / 10, perplexity: 10 * Math.exp(loss) });
  const exchange = { original_parameters: 1000, original_bytes: 2000, exchange: [at(1000, 0), at(800, 0.1), at(500, 0.7), at(401, 2)] };
  const point = (text: string) => {
    const parsed = parseBudget(text);
    if (!parsed || 'problem' in parsed) throw new Error(text);
    return pointAt(exchange, parsed);
  };

  test('lie on the lines between the points of the curve', () => {
    expect(point('80%')).toEqual({ ...at(800, 0.1), perplexity: expect.closeTo(10 * Math.exp(0.1)) as number });
    expect(point('65%')).toMatchObject({ parameters: 650, bytes: 1300, loss: expect.closeTo(0.4) as number, perplexity: expect.closeTo(10 * Math.exp(0.4)) as number });
    expect(point('1.3kB')).toEqual(point('65%'));
    expect(point('100%')).toEqual(at(1000, 0));
    expect(point('4kB')).toEqual(at(1000, 0));
    const below = point(`perplexity<${10 * Math.exp(0.4)}`);
    expect(below).toMatchObject({ parameters: 650 });
    expect(point('perplexity<1000')).toEqual(at(401, 2));
  });

  test('out of reach say how far one can go', () => {
    expect(point('40%')).toMatchObject({ problem: expect.stringContaining('40.1%') as string });
    expect(point('0.5kB')).toMatchObject({ remedy: expect.stringContaining('40.1%') as string });
    expect(point('perplexity<9')).toMatchObject({ problem: expect.stringContaining('10') as string });
    const blind = { ...exchange, exchange: exchange.exchange.map(each => ({ ...each, perplexity: null })) };
    expect(pointAt(blind, { unit: 'perplexity', below: 20 })).toHaveProperty('problem');
    expect(pointAt(blind, { unit: 'parameters', share: 0.65 })).toMatchObject({ perplexity: null });
  });
});

describe('the schema that VS Code checks a plan by', () => {
  interface Definition {
    readonly properties: Readonly<Record<string, { readonly description?: string }>>;
  }
  const schema = JSON.parse(readFileSync(path.join(import.meta.dirname, '../../extension/protocol/plan.schema.json'), 'utf8')) as Definition & {
    readonly definitions: Readonly<Record<string, Definition>>;
  };
  const valid = new Ajv({ strict: false }).compile(schema);

  test('says of every key what it is', () => {
    const bare = [schema, ...Object.values(schema.definitions)].flatMap(({ properties }) => Object.entries(properties).flatMap(([key, { description }]) => (description ? [] : [key])));
    expect(bare).toEqual([]);
  });

  test('takes what the engine takes, and points at the rest', () => {
    const { quantize, ...whole } = read(PLAN);
    expect(quantize).toEqual([]);
    expect(valid(whole)).toBe(true);
    expect(valid({ ...whole, budget, predicted, evaluate: { length: 64 }, version: 1 })).toBe(true);
    for (const wrong of [{ ...whole, tensorize: [] }, { ...whole, tensorize: [{ layers: ['a'] }] }, { ...whole, tensorize: [{ layers: ['a'], chi: 1, keep: 0.5 }] }, { ...whole, more: 1 }]) {
      expect(valid(wrong)).toBe(false);
    }
  });
});

describe('a plan that quantizes', () => {
  const text = (rules: string) => `{ "model": "m", "output": "o",\n  "quantize": [${rules}] }`;

  test('names its layers, and leaves cores and head to the engine', () => {
    const plan = new Plan(text('{ "layers": ["*.q_proj"], "scheme": "compensated-3", "rank": 8 },\n{ "layers": ["*.cores.*", "lm_head"], "scheme": "int8" }'), 'a.bondwise.json');
    const layer = { name: 'b.0.q_proj', shape: [4, 4], state: 'dense' };
    const model = { blocks: [{ layers: [layer] }] } as unknown as Parameters<typeof plan.quantizedIn>[0];
    expect(plan.quantizedIn(model).map(own => own.map(({ name }) => name))).toEqual([['b.0.q_proj'], []]);
    expect(plan.file.tensorize).toEqual([]);
  });

  test.each([
    ['{ "layers": ["*"], "scheme": "low-rank-4" }', /low-rank-4 and no rank/],
    ['{ "layers": ["*"], "scheme": "nf4", "rank": 3 }', /which nf4 does not take/],
    ['{ "layers": ["*"], "scheme": "nf5" }', /scheme/],
    ['', /quantize must NOT have fewer than 1 items/],
  ])('with a mistake: %s', (rules, message) => {
    expect(() => new Plan(text(rules), 'a.bondwise.json')).toThrow(message);
  });

  test('and tensorizes takes a plan for each', () => {
    const both = '{ "model": "m", "output": "o", "tensorize": [{ "layers": ["*"], "chi": 1 }],\n "quantize": [{ "layers": ["*"], "scheme": "nf4" }] }';
    expect(() => new Plan(both, 'a.bondwise.json')).toThrow(/a\.bondwise\.json:2: .*under tensorize and under quantize/);
  });
});
