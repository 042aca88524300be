import { mkdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { describeMissing, engineVariables, findEnvironment } from '../../extension/engine/find.ts';
import { bondwiseHome, environmentDirectory } from '../../extension/engine/home.ts';
import { downloadSize } from '../../extension/engine/sizes.ts';
import { announced, readUvLine, UV_START, uvFailure } from '../../extension/engine/uv-output.ts';
import { projectRoot } from '../../extension/scripts/project.ts';
import { GOOD_PYTHON, makeWorkshop, type Workshop } from './engineFake.ts';

let workshop: Workshop;
beforeEach(async () => {
  workshop = await makeWorkshop();
});
afterEach(() => workshop.dispose());

describe('where Bondwise keeps its things', () => {
  it.each<[NodeJS.ProcessEnv, NodeJS.Platform, string]>([
    [{ BONDWISE_HOME: '/b', XDG_DATA_HOME: '/x' }, 'linux', '/b'],
    [{ XDG_DATA_HOME: '/x' }, 'linux', '/x/bondwise'],
    [{}, 'linux', '/home/u/.local/share/bondwise'],
    [{}, 'darwin', '/home/u/Library/Application Support/bondwise'],
  ])('%o on %s', (env, platform, home) => expect(bondwiseHome(env, platform, '/home/u')).toBe(home));

  it('is another environment for another lock', async () => {
    const before = await environmentDirectory('/h', workshop.engineDir, 'requirements.lock');
    expect(before).toMatch(/^\/h\/env-[0-9a-f]{12}$/);
    await writeFile(path.join(workshop.engineDir, 'requirements.lock'), 'torch==2.0\n');
    expect(await environmentDirectory('/h', workshop.engineDir, 'requirements.lock')).not.toBe(before);
  });
});

describe('finding a Python', () => {
  const find = (more: Partial<Parameters<typeof findEnvironment>[0]> = {}) =>
    findEnvironment({ engineDir: workshop.engineDir, home: workshop.home, env: workshop.env, ...more });

  async function makeOwn(body = GOOD_PYTHON): Promise<string> {
    const directory = await environmentDirectory(workshop.home, workshop.engineDir, 'requirements.lock');
    await workshop.script('python', body, path.join(directory, 'bin'));
    await writeFile(path.join(directory, '.complete'), '{}');
    return path.join(directory, 'bin', 'python');
  }

  it('goes in the order setting, own environment, Python extension, PATH', async () => {
    const chosen = await workshop.script('chosen', GOOD_PYTHON);
    const pythonExtension = () => Promise.resolve(chosen);
    await workshop.script('python3', GOOD_PYTHON);
    expect(await find()).toMatchObject({ source: 'path', python: 'python3', version: '3.12.1' });
    expect(await find({ pythonExtension })).toMatchObject({ source: 'python-extension', python: chosen });
    const own = await makeOwn();
    expect(await find({ pythonExtension })).toMatchObject({ source: 'bondwise', python: own });
    const setting = await workshop.script('mine', GOOD_PYTHON);
    expect(await find({ pythonExtension, setting })).toMatchObject({ source: 'setting', python: setting });
  });

  it('takes nothing else in place of a setting that is wrong', async () => {
    await workshop.script('python3', GOOD_PYTHON);
    expect(await find({ setting: '/nowhere/python' })).toEqual({
      python: undefined,
      tried: [{ source: 'setting', candidate: '/nowhere/python', reason: 'there is no such program' }],
    });
  });

  it('says of each candidate why it will not do', async () => {
    const bodies = {
      old: `echo '{"version": [3, 8, 10], "missing": []}'`,
      bare: `echo '{"version": [3, 11, 2], "missing": ["torch", "transformers"]}'`,
      other: 'echo "Hello"',
      broken: 'echo "Fatal: no module named encodings" >&2; exit 1',
    };
    const reasons = await Promise.all(
      Object.entries(bodies).map(async ([name, body]) => {
        const found = await find({ setting: await workshop.script(name, body) });
        return found.python === undefined ? found.tried[0]?.reason : 'usable';
      }),
    );
    expect(reasons).toEqual([
      'it is Python 3.8.10; Bondwise needs 3.11 or newer',
      'Python 3.11.2 lacks torch, transformers',
      'it is not a Python that Bondwise understands: it printed "Hello"',
      'it does not run: Fatal: no module named encodings',
    ]);
  });

  it('tells all that was tried, our half-made environment too', async () => {
    const directory = await environmentDirectory(workshop.home, workshop.engineDir, 'requirements.lock');
    await mkdir(directory, { recursive: true });
    await workshop.script('python3', `echo '{"version": [3, 11, 2], "missing": ["torch"]}'`);
    const found = await find({ pythonExtension: () => Promise.reject(new Error('no such extension')) });
    expect(found.python).toBeUndefined();
    expect(found.python === undefined && describeMissing(found)).toBe(
      `Bondwise’s own environment (${directory}): its set-up was not finished\nthe system’s Python (python3 on PATH): Python 3.11.2 lacks torch`,
    );
  });

  it('asks each Python once, until it changes', async () => {
    const python = await workshop.script('counted', `echo x >> '${workshop.engineDir}/count'; ${GOOD_PYTHON}`);
    const count = async () => (await readFile(path.join(workshop.engineDir, 'count'), 'utf8')).length / 2;
    await find({ setting: python });
    await find({ setting: python });
    expect(await count()).toBe(1);
    await workshop.script('counted', `echo x >> '${workshop.engineDir}/count'; echo '{"version": [3, 13, 0], "missing": []}'`);
    expect(await find({ setting: python })).toMatchObject({ version: '3.13.0' });
    expect(await count()).toBe(2);
  });

  it('gives a foreign Python its PYTHONPATH and our own none', () => {
    const base = { engineDir: '/e', home: '/h' };
    expect(engineVariables({ ...base, source: 'path' }, { PYTHONPATH: '/cluster' }).PYTHONPATH).toBe('/e:/cluster');
    expect(engineVariables({ ...base, source: 'bondwise' }, { PYTHONPATH: '/cluster' }).PYTHONPATH).toBe('/e');
  });
});

describe('what uv says', () => {
  const lines = ['Using Python 3.11.7 environment at: v', 'Resolved 64 packages in 417ms', 'Downloading torch (514.2MiB)', 'Downloading nvidia-cublas (1.5GiB)', ' Downloaded torch'];

  it('is counted', () => {
    const state = lines.reduce(readUvLine, UV_START);
    expect(state).toMatchObject({ stage: 'downloading', packages: 64, loaded: Math.round(514.2 * 2 ** 20) });
    expect([...state.loading]).toEqual([['nvidia-cublas', 1.5 * 2 ** 30]]);
    expect(announced(state)).toBe(Math.round(514.2 * 2 ** 20) + 1.5 * 2 ** 30);
    expect(readUvLine(state, 'Prepared 64 packages in 26.46s').stage).toBe('installing');
    expect(readUvLine(state, ' + accelerate==1.15.0')).toBe(state);
  });

  it('is cut down to the error', () => {
    const output = `${lines.join('\n')}\nerror: Failed to fetch: x\n  Caused by: no route to host\n`;
    expect(uvFailure(output)).toBe('error: Failed to fetch: x\n  Caused by: no route to host');
    expect(uvFailure('a\n  × No solution found\n  ╰─▶ because')).toBe('  × No solution found\n  ╰─▶ because');
  });
});

describe('the size to consent to', () => {
  it('is unknown for a lock that was not measured', async () => {
    await writeFile(path.join(workshop.engineDir, 'requirements.sizes.json'), '{"requirements.lock": {"sha256": "00", "platforms": {"linux-x64": {"download": 1, "installed": 2}}}}');
    expect(await downloadSize(workshop.engineDir, 'requirements.lock', 'linux-x64')).toBeUndefined();
    expect(await downloadSize(workshop.engineDir, 'requirements-dev.lock', 'linux-x64')).toBeUndefined();
  });

  it.each(['linux-x64', 'linux-arm64', 'darwin-arm64', 'win32-x64'])('is recorded for the lock that we ship on %s', async platform => {
    const size = await downloadSize(path.join(projectRoot, 'engine'), 'requirements.lock', platform);
    expect(size?.download).toBeGreaterThan(1e8);
    expect(size?.installed).toBeGreaterThan(size?.download ?? Infinity);
  });
});
