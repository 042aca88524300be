import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parseProfile, type ProfileFile, type ProfileText, readProfile } from '../../extension/profile/read.ts';
import type { Sensitivity } from '../../extension/protocol/types.ts';
import { cell, curve, profileLayers, sensitivity } from './profiles.ts';

const layers = profileLayers(3);
const whole = sensitivity({ layers, curves: layers.map(layer => curve(layer, 1)), cells: layers.flatMap(layer => [2, 4, 8].map(chi => cell(layer, chi, 1 / chi))), complete: true });

function shown(text: string): { readonly profile: Sensitivity; readonly notes: readonly string[] } {
  const read = parseProfile(text, 'x.sensitivity.json');
  if ('problem' in read) {
    throw new Error(read.problem);
  }
  return read;
}

function problemOf(read: ProfileFile | ProfileText): string | undefined {
  return read && 'problem' in read ? read.problem : undefined;
}

describe('a whole profile', () => {
  test.each([0, 1, 2])('is read as it was written, indented by %i', indent => {
    expect(shown(JSON.stringify(whole, null, indent))).toEqual({ profile: whole, notes: [] });
  });

  test('loses only curves and cells that no view could draw, and says how many', () => {
    const uneven = { ...whole.curves?.[0], fisher: [1] };
    const { profile, notes } = shown(JSON.stringify({ ...whole, curves: [uneven, ...(whole.curves ?? []).slice(1)], cells: [{ ...whole.cells?.[0], layer: 'lm_head' }] }));
    expect(profile.curves).toEqual(whole.curves?.slice(1));
    expect(profile.cells).toEqual([]);
    expect(notes).toEqual([expect.stringMatching(/2 curves or cells/)]);
  });
});

test('a file that nests deeper than a parser goes is a problem in words', () => {
  const text = JSON.stringify(whole).replace('"complete":true', `"complete":${'['.repeat(200_000)}`);
  expect(problemOf(parseProfile(text, 'x.sensitivity.json'))).toMatch(/^x\.sensitivity\.json is not JSON: /);
});

describe('a profile that was cut off', () => {
  test.each([0, 1])('gives at every length a part of the whole, never another figure (indented by %i)', indent => {
    const text = JSON.stringify(whole, null, indent);
    const known = { layers: new Set(layers.map(each => JSON.stringify(each))), curves: new Set(whole.curves?.map(each => JSON.stringify(each))), cells: new Set(whole.cells?.map(each => JSON.stringify(each))) };
    let most = 0;
    for (let end = 0; end < text.length; end += 61) {
      const read = parseProfile(text.slice(0, end), 'x.sensitivity.json');
      if ('problem' in read) {
        expect(most).toBe(0);
        continue;
      }
      for (const kind of ['layers', 'curves', 'cells'] as const) {
        expect(read.profile[kind]?.every(each => known[kind].has(JSON.stringify(each)))).toBe(true);
      }
      const found = [read.profile.layers, read.profile.curves, read.profile.cells].reduce((sum, list) => sum + (list?.length ?? 0), 0);
      expect(found).toBeGreaterThanOrEqual(most);
      expect(read.profile.complete).toBe(false);
      expect(read.notes[0]).toMatch(/cut off or damaged; what can be read is shown: \d+ layers/);
      most = found;
    }
    // All but at most the last cell, which may have been cut in its last number.
    expect(most).toBeGreaterThanOrEqual(layers.length * 5 - 1);
  });

  test('loses no more than one cell for the cut', () => {
    const text = JSON.stringify(whole);
    const marker = '{"layer":"model.layers.2.mlp.down_proj","chi":4';
    const { profile } = shown(text.slice(0, text.indexOf(marker) + 60));
    expect(profile.cells).toEqual(whole.cells?.slice(0, -2));
    expect(profile.curves).toEqual(whole.curves);
  });

  test.each(['', '{', '[]', 'null', '{"version": 1, "engine": "0.1.0"', JSON.stringify({ ...whole, layers: [] }).slice(0, -1)])('says that nothing of %j can be shown', text => {
    expect(problemOf(parseProfile(text, 'x.sensitivity.json'))).toMatch(/^x\.sensitivity\.json .*Nothing of it can be shown/);
  });
});

test('a damaged cell does not cost the others', () => {
  const broken = { ...whole, cells: (whole.cells ?? []).map((each, i) => (i === 3 ? { ...each, chi: 'many' } : each)) };
  const { profile, notes } = shown(JSON.stringify(broken));
  expect(profile.cells).toEqual(whole.cells?.filter((_, i) => i !== 3));
  expect(notes[0]).toMatch(/cells\/3\/chi must be integer/);
});

test('a newer format is told as such', () => {
  expect(problemOf(parseProfile(JSON.stringify({ ...whole, version: 2 }), 'x.sensitivity.json'))).toMatch(/newer Bondwise/);
});

describe('on disk', () => {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(path.join(tmpdir(), 'profile-'));
  });
  afterAll(() => rm(folder, { recursive: true }));

  test('a file is read again only when it is another', async () => {
    const file = path.join(folder, 'a.sensitivity.json');
    expect(await readProfile(file)).toBeUndefined();
    await writeFile(file, JSON.stringify(whole));
    const first = await readProfile(file);
    expect(first && 'profile' in first && first.profile).toEqual(whole);
    expect(await readProfile(file, first)).toBe(first);
    await writeFile(file, JSON.stringify({ ...whole, cells: [] }));
    const second = await readProfile(file, first);
    expect(second && 'profile' in second && second.profile.cells).toEqual([]);
    expect(problemOf(await readProfile(folder))).toMatch(/cannot be read/);
  });
});
