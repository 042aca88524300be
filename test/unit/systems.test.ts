/** What differs between Linux, macOS and Windows, as far as it can be seen from one of them. */
import { spawn } from 'node:child_process';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { bondwiseHome, pythonIn } from '../../extension/engine/home.ts';
import { portablePath } from '../../extension/plan/paths.ts';
import { identify, isAlive, signalGroup, startOf } from '../../extension/runs/process.ts';
import { descendants, parsePs, parseStat, processTable } from '../../extension/runs/processTable.ts';
import { until } from './runsFake.ts';

describe('paths', () => {
  it.each([
    ['/models', '/models/small', path.posix, 'small'],
    ['/models/plans', '/models/small', path.posix, '../small'],
    ['/models', '/models', path.posix, '.'],
    ['C:\\models', 'C:\\models\\small', path.win32, 'small'],
    ['C:\\models\\plans', 'c:\\Models\\small', path.win32, '../small'],
    ['C:\\models', 'D:\\small', path.win32, 'D:/small'],
    ['\\\\server\\share\\a', '\\\\server\\share\\b\\c', path.win32, '../b/c'],
  ])('in files have forward slashes: from %s to %s', (from, to, system, expected) => expect(portablePath(from, to, system)).toBe(expected));

  it('of the engine’s environment are those of the system', () => {
    expect(bondwiseHome({ LOCALAPPDATA: 'C:\\Users\\u\\AppData\\Local' }, 'win32', 'C:\\Users\\u')).toBe('C:\\Users\\u\\AppData\\Local\\bondwise');
    expect(bondwiseHome({}, 'win32', 'C:\\Users\\u')).toBe('C:\\Users\\u\\AppData\\Local\\bondwise');
    expect(bondwiseHome({}, 'darwin', '/Users/u')).toBe('/Users/u/Library/Application Support/bondwise');
    expect(pythonIn('C:\\bondwise\\env-1', 'win32')).toBe('C:\\bondwise\\env-1\\Scripts\\python.exe');
    expect(pythonIn('/home/u/env-1', 'darwin')).toBe('/home/u/env-1/bin/python');
  });
});

describe('process trees', () => {
  const table = parsePs('    1     0\n  100     1\n  101   100\n  102   101\n  103   100\n  200     1\nps: something else\n');

  it('hold children and theirs, the deepest last, and nobody else’s', () => {
    expect(table).toHaveLength(6);
    expect(descendants(table, 100)).toEqual([101, 103, 102]);
    expect(descendants(table, 200)).toEqual([]);
    // Read while ids were used again.
    expect(descendants([{ pid: 5, parent: 6 }, { pid: 6, parent: 5 }], 5)).toEqual([6]);
  });

  it('are read from Linux’s stat, whatever the program is called', () => {
    const rest = `S 41 42 42 0 -1 4194304 ${'0 '.repeat(12)}987654 0`;
    expect(parseStat(`42 (a) S (b c) ${rest}`)).toEqual({ pid: 42, state: 'S', parent: 41, start: '987654' });
    expect(parseStat('')).toBeUndefined();
  });

  it('tell from ps of macOS when a process started', () => {
    expect(startOf('Ss   Thu Jan  1 10:00:00 2026\n')).toBe('ps:Thu Jan  1 10:00:00 2026');
    expect(startOf('Z    Thu Jan  1 10:00:00 2026\n')).toBeUndefined();
    expect(startOf('')).toBeUndefined();
  });

  it.runIf(process.platform === 'linux')('are killed whole, with what has a session of its own', async () => {
    const sleep = "require('node:child_process').spawn(process.execPath, ['-e', 'setInterval(() => 0, 1000)'], { detached: true, stdio: 'ignore' }); setInterval(() => 0, 1000)";
    const child = spawn(process.execPath, ['-e', sleep], { detached: true, stdio: 'ignore' });
    const leader = await until(async () => identify(child.pid ?? -1));
    const grandchild = await until(async () => {
      const [first] = descendants(await processTable(), leader.pid);
      return first === undefined ? undefined : identify(first);
    });
    expect(await signalGroup(leader, 'SIGKILL')).toBe(true);
    await until(async () => !(await isAlive(leader)) && !(await isAlive(grandchild)));
  });
});
