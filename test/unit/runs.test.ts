import { describe, expect, it } from 'vitest';
import { codeFolders } from '../../extension/runs/codeFolders.ts';
import { EMPTY_SUMMARY } from '../../extension/runs/fold.ts';
import { formatBytes, formatDuration, formatNumber, formatParameters, formatPercent } from '../../extension/runs/format.ts';
import { canCancel, canResume, compareRuns, fractionDone, progressText, type Run, type RunState } from '../../extension/runs/run.ts';
import type { Progress } from '../../extension/protocol/types.ts';
import { request } from './runsFake.ts';

function run(state: RunState, progress?: Progress, created = '2026-01-01T00:00:00Z'): Run {
  const status = state === 'invalid' ? {} : { status: { state, phase: 'Measuring', updated: created, ...(progress && { progress }) } };
  return { id: `${created}-${state}`, directory: `/runs/${state}`, state, title: 'T', created, request: request(), summary: EMPTY_SUMMARY, ...status };
}

describe('format', () => {
  it.each([
    [0, '0 B'],
    [999, '999 B'],
    [1000, '1.0 kB'],
    [9949, '9.9 kB'],
    [999_499, '999 kB'],
    [999_500, '1.0 MB'],
    [2_881_000_000, '2.9 GB'],
    [1.5e16, '15 PB'],
  ])('bytes %d', (value, text) => expect(formatBytes(value)).toBe(text));

  it.each([
    [576, '576'],
    [134_515_008, '135 M'],
    [1_100_000_000, '1.1 B'],
    [12_345, '12 K'],
  ])('parameters %d', (value, text) => expect(formatParameters(value)).toBe(text));

  it.each([
    [0, '0.0 s'],
    [0.04, '< 0.1 s'],
    [0.4, '0.4 s'],
    [6.2, '6 s'],
    [59.6, '1 min'],
    [65, '1 min 5 s'],
    [3599.7, '1 h'],
    [7380, '2 h 3 min'],
    [86_399, '1 d'],
    [273_600, '3 d 4 h'],
  ])('duration %d', (value, text) => expect(formatDuration(value)).toBe(text));

  it.each([
    [0, '0%'],
    [0.0004, '< 0.1%'],
    [0.043, '4.3%'],
    [0.0996, '10%'],
    [0.426, '43%'],
    [1, '100%'],
  ])('percent %d', (value, text) => expect(formatPercent(value)).toBe(text));

  it.each([
    [3.14159, '3.14'],
    [0.0421, '0.0421'],
    [12_345.6, '12\u202f346'],
  ])('number %d', (value, text) => expect(formatNumber(value)).toBe(text));
});

describe('what the views say', () => {
  it('gives the percentage and the time left first, then phase, position and rate', () => {
    expect(progressText(run('running', { done: 12, total: 30, unit: 'layers', rate: 3.1, eta: 5.8 }))).toBe('40% · 6 s left · Measuring · layer 12/30 · 3.1 layers/s');
    expect(progressText(run('running', { done: 1, total: 8, unit: 'layer', rate: 0.05, eta: 140 }))).toBe('12% · 2 min left · Measuring · layer 1/8 · 20 s per layer');
    expect(progressText(run('running', { done: 2.5e9, total: 1e10, unit: 'bytes' }))).toBe('25% · Measuring');
    expect(progressText(run('running'))).toBe('Measuring');
    const downloading = run('running', { done: 1, total: 4, unit: 'files', eta: 9 });
    expect(progressText({ ...downloading, status: { state: 'running', updated: '', progress: { done: 1, total: 4, unit: 'files', eta: 9 }, phase: 'Downloading SmolLM2-135M-Instruct from\nsomewhere' } })).toBe(
      '25% · 9 s left · Downloading SmolLM2-135… · file 1/4',
    );
    expect(progressText(run('running', { done: 0, total: 0, unit: 'layers' }))).toBe('Measuring');
  });

  it('says why a run ended', () => {
    const failed = run('failed');
    const summary = { ...EMPTY_SUMMARY, error: { message: 'from the journal' } };
    expect(progressText({ ...failed, summary })).toBe('from the journal');
    expect(progressText({ ...failed, summary, status: { state: 'failed', updated: '', error: { message: 'from the status' } } })).toBe('from the status');
    expect(progressText({ ...run('invalid'), problem: 'run.json is not JSON' })).toBe('run.json is not JSON');
  });

  it('has a fraction only while at work', () => {
    const progress = { done: 3, total: 4, unit: 'layers' };
    expect(fractionDone(run('running', progress))).toBe(0.75);
    expect(fractionDone(run('cancelled', progress))).toBeUndefined();
    expect(fractionDone(run('running', { done: 5, total: 4, unit: 'layers' }))).toBe(1);
  });

  it('offers what can be done', () => {
    const states: RunState[] = ['queued', 'running', 'cancelling', 'cancelled', 'failed', 'interrupted', 'done', 'invalid'];
    expect(states.filter(state => canCancel(run(state)))).toEqual(['queued', 'running']);
    expect(states.filter(state => canResume(run(state)))).toEqual(['cancelled', 'failed', 'interrupted']);
  });

  it('sorts work first, then the newest', () => {
    const runs = [
      run('done', undefined, '2026-01-01T00:00:00Z'),
      run('queued', undefined, '2026-01-04T00:00:00Z'),
      run('failed', undefined, '2026-01-03T00:00:00Z'),
      run('running', undefined, '2026-01-02T00:00:00Z'),
    ];
    expect(runs.sort(compareRuns).map(each => each.state)).toEqual(['running', 'queued', 'failed', 'done']);
  });
});

describe('the folders whose code a run wants to have run', () => {
  const of = (changes: object) => codeFolders({ directory: '/w/.bondwise/runs/a', request: { ...request(), ...changes } });

  it('are none where no code is asked for', () => {
    expect(of({ model: '/m' })).toEqual([]);
    expect(codeFolders({ directory: '/w' })).toEqual([]);
  });

  it('are the model’s, also where its path is relative, and the reference’s', () => {
    expect(of({ allow_code: true, model: '../../../m' })).toEqual(['/w/m']);
    expect(of({ allow_code: true, kind: 'perplexity', model: '/m', options: { reference: '/r' } })).toEqual(['/m', '/r']);
  });
});
