import { describe, expect, test } from 'vitest';
import { changesSince } from '../../extension/profile/changes.ts';
import { storedExclusions } from '../../extension/profile/exclusions.ts';
import { ProfileFold } from '../../extension/profile/fold.ts';
import { layerSensitivities, levelOf, worstOf } from '../../extension/profile/levels.ts';
import { homeOf, latestOf, outputOf, profileFile, runFor } from '../../extension/profile/matching.ts';
import { parseSizes, sizesText } from '../../extension/profile/sizes.ts';
import type { RunRequest } from '../../extension/protocol/types.ts';
import { EMPTY_SUMMARY } from '../../extension/runs/fold.ts';
import type { Run } from '../../extension/runs/run.ts';
import { cell, curve, profileLayers, sensitivity } from './profiles.ts';

const [q, o, up, down] = profileLayers(1);
if (!q || !o || !up || !down) {
  throw new Error('four layers a block');
}

describe('the sensitivity of a layer', () => {
  test('is the measured one where there is one near 30%, else the predicted one, else none', () => {
    const found = layerSensitivities(
      sensitivity({
        layers: [q, o, up, down],
        curves: [curve(q, 1), curve(o, 0.1)],
        // Of 256 parameters χ 2 keeps 2·30, χ 4 keeps 4·28.
        cells: [cell(q, 4, 0.01), cell(q, 2, 0.2), cell(up, 12, 3)],
      }),
    );
    const { rise, error, ...rest } = found.get(q.name) ?? { rise: NaN };
    expect(rise).toBeCloseTo(0.2);
    expect(error).toBeCloseTo(0.02);
    expect(rest).toEqual({ chi: 2, keep: 60 / 256, source: 'measured', level: 'high' });
    // The truncation that tensorize does is the plain one.
    expect(found.get(o.name)).toEqual({ rise: 0.05, chi: 2, keep: 60 / 256, source: 'predicted', level: 'moderate' });
    // χ 12 keeps 12·52 of 768, which says nothing of 30%.
    expect([found.has(up.name), found.has(down.name)]).toEqual([false, false]);
  });

  test('reads the loss from the perplexity or the KL where it is not there itself', () => {
    const by = (metric: string, value: number, baseline: Record<string, number>) =>
      layerSensitivities(sensitivity({ layers: [q], baseline, cells: [{ ...cell(q, 2, 0), figures: { [metric]: { value, error: 0.1 } } }] })).get(q.name);
    expect(by('perplexity', 40, { perplexity: 20 })).toMatchObject({ rise: Math.log(2), error: 0.1 / 40, level: 'severe' });
    expect(by('kl', 0.3, {})).toMatchObject({ rise: 0.3, error: 0.1, level: 'high' });
    expect(by('kl', 0.19, {})).toMatchObject({ rise: 0.19, error: 0.1, level: 'low' });
    expect(by('agreement', 0.9, { agreement: 1 })).toBeUndefined();
    expect(by('loss', 3.5, {})).toBeUndefined();
  });

  test('takes the surer of loss and KL, as the planner does', () => {
    const by = (error: number) =>
      layerSensitivities(
        sensitivity({ layers: [q], baseline: { loss: 3 }, cells: [{ ...cell(q, 2, 0), figures: { loss: { value: 3.5, error }, kl: { value: 0.2, error: 0.02 } } }] }),
      ).get(q.name)?.rise;
    expect([by(0.1), by(0.01)]).toEqual([0.2, 0.5]);
  });

  test('has borders where the perplexity is 2%, 10% and 50% higher', () => {
    expect([-1, 0, 0.019, 0.02, 0.09, 0.1, 0.4, 0.41, 9].map(levelOf)).toEqual(['low', 'low', 'low', 'moderate', 'moderate', 'high', 'high', 'severe', 'severe']);
  });

  test('of a block is that of its worst layer', () => {
    const found = layerSensitivities(sensitivity({ layers: [q, o, up], curves: [curve(q, 0.2), curve(o, 4)] }));
    expect(worstOf([q.name, o.name, up.name], found)).toBe(found.get(o.name));
    expect(worstOf([up.name], found)).toBeUndefined();
  });
});

describe('sizes as they are typed', () => {
  test.each([
    ['75% 50%,30% ; 50%', { keep: [0.75, 0.5, 0.3] }],
    ['16 256, 64', { chi: [256, 64, 16] }],
    ['12.5%', { keep: [0.125] }],
  ])('%s', (text, sizes) => {
    expect(parseSizes(text, 576)).toEqual(sizes);
  });

  test.each([
    [' , ', /no size/],
    ['50% 64', /mixed/],
    ['600', /χ 600 is above 576/],
    ['0', /at least 1/],
    ['120%', /not a share/],
    ['64 half', /“half” is not a number/],
  ])('%j is refused with what to type instead', (text, problem) => {
    const found = parseSizes(text, 576);
    expect('problem' in found && found.problem).toMatch(problem);
    expect('remedy' in found && found.remedy).toMatch(/^Type /);
  });

  test('are shown as they could be typed', () => {
    expect(sizesText({ keep: [0.75, 0.125] })).toBe('75% 12.5%');
    expect(sizesText({ chi: [64, 16] })).toBe('χ 64 χ 16');
  });
});

describe('changes of a profile', () => {
  const folded = (...cells: Parameters<ProfileFold['add']>[0][]) => {
    const fold = new ProfileFold();
    fold.add({ seq: 1, time: '', type: 'profile', profile: sensitivity({ layers: [q, o], cells: [cell(q, 1, 1)] }) });
    const before = fold.value;
    cells.forEach(event => fold.add(event));
    const after = fold.value;
    if (!before || !after) {
      throw new Error('the profile event came');
    }
    return changesSince(before, after);
  };

  test('are the figures that a run has added, each once', () => {
    const [added, again, line] = [cell(o, 2, 1), cell(q, 1, 2), curve(o, 1)];
    expect(folded()).toBeUndefined();
    expect(folded({ seq: 2, time: '', type: 'cell', cell: added }, { seq: 3, time: '', type: 'cell', cell: again }, { seq: 4, time: '', type: 'curve', curve: line })).toEqual({
      type: 'cells',
      curves: [line],
      cells: [again, added],
    });
    expect(folded({ seq: 2, time: '', type: 'baseline', baseline: { kl: 0 } })).toEqual({ type: 'cells', curves: [], cells: [], baseline: { loss: 3, perplexity: Math.exp(3), kl: 0 } });
  });

  test('are the whole profile where it covers something else, or has lost figures', () => {
    const before = sensitivity({ layers: [q], cells: [cell(q, 1, 1)] });
    expect(changesSince(before, { ...before, cells: [] })).toBe('whole');
    expect(changesSince(before, { ...before, layers: [q, o] })).toBe('whole');
    expect(changesSince(before, { ...before, complete: true })).toBe('whole');
  });
});

describe('a profile and its run', () => {
  const file = '/work/base.sensitivity.json';
  const run = (id: string, state: Run['state'], over: Partial<Run> = {}): Run => {
    const request: RunRequest = { kind: 'profile', created: '', title: '', model: '../base', options: { output: '../../base.sensitivity.json' } };
    return { id, directory: `/work/runs/${id}`, state, title: '', created: id, request, summary: EMPTY_SUMMARY, ...over };
  };
  const other: Run = { ...run('x', 'running'), request: { kind: 'sample-model', created: '', title: '', options: { output: file } } };

  test('belong together by the output, at work before waiting before done', () => {
    const [done, waiting, working] = [{ ...run('a', 'done'), directory: '/work/runs/a' }, run('b', 'queued'), run('c', 'running')];
    expect(outputOf(done)).toBe('/work/base.sensitivity.json');
    expect(outputOf(other)).toBeUndefined();
    expect(runFor(file, [other, done])).toBe(done);
    expect(runFor(file, [waiting, working, done])).toBe(working);
    expect(runFor(file, [waiting, done])).toBe(waiting);
    expect(runFor('/work/other.sensitivity.json', [working])).toBeUndefined();
  });

  test('the run knows more while it works, the file afterwards; what was found is not lost with the file', () => {
    const [saved, found] = [sensitivity(), sensitivity()];
    const summary = { ...EMPTY_SUMMARY, profile: found };
    expect(latestOf(saved, run('a', 'running', { summary }))).toBe(found);
    expect(latestOf(saved, run('a', 'queued'))).toBe(saved);
    expect(latestOf(saved, run('a', 'done', { summary }))).toBe(saved);
    expect(latestOf(undefined, run('a', 'cancelled', { summary }))).toBe(found);
    expect(latestOf(undefined, undefined)).toBeUndefined();
  });
});

describe('a profile and its model', () => {
  const { model } = sensitivity();
  const same = model.fingerprint;
  const at = (folder: string, fingerprint: string | undefined) => ({ folder, fingerprint });

  test.each([
    ['where it was', [at('/other/base', same), at('/work/base', same)], { folder: '/work/base', same: true }],
    ['moved', [at('/work/base', 'changed'), at('/other/base', same)], { folder: '/other/base', same: true }],
    ['changed', [at('/work/base', 'changed')], { folder: '/work/base', same: false }],
    ['not readable', [at('/work/base', undefined)], { folder: '/work/base', same: false }],
    ['gone', [at('/work/elsewhere', 'changed')], undefined],
  ])('%s', (_, candidates, home) => {
    expect(homeOf('/work/base.sensitivity.json', model, candidates)).toEqual(home);
  });

  test('a new file has the first name that is free', async () => {
    const taken = new Set(['/work/base.sensitivity.json', '/work/base-2.sensitivity.json']);
    expect(await profileFile('/work', 'base', file => Promise.resolve(!taken.has(file)))).toBe('/work/base-3.sensitivity.json');
    expect(await profileFile('/work', 'base', () => Promise.resolve(true))).toBe('/work/base.sensitivity.json');
  });
});

test('layers are kept out of the next plan of their own profile only', async () => {
  const kept = new Map<string, unknown>();
  const exclusions = storedExclusions({
    get: <T>(key: string, fallback: T) => (kept.has(key) ? (kept.get(key) as T) : fallback),
    update: (key, value) => Promise.resolve(void kept.set(key, value)),
  });
  await exclusions.add('/a', ['x', 'y']);
  await exclusions.add('/a', ['y', 'z']);
  await exclusions.add('/b', ['x']);
  expect([exclusions.get('/a'), exclusions.get('/b'), exclusions.get('/c')]).toEqual([['x', 'y', 'z'], ['x'], []]);
});
