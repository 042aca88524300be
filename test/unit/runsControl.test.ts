/** Real processes, killed for real. Linux: the stand-in reads its own identity from /proc. */
import { access, readdir, readFile, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { spawn } from 'node:child_process';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { launch } from '../../extension/engine/launch.ts';
import type { ProcessIdentity, RunStatus } from '../../extension/protocol/types.ts';
import { cancelRun, isAbandoned, recordLaunch, resumeRun, settleAbandoned } from '../../extension/runs/control.ts';
import { createRun, deleteRun, runAgain, runId } from '../../extension/runs/create.ts';
import { replaceJson } from '../../extension/runs/files.ts';
import { identify, isAlive, signalGroup } from '../../extension/runs/process.ts';
import { RunReader } from '../../extension/runs/reader.ts';
import { type Behaviour, type Fake, makeFake, readStatus, request, until } from './runsFake.ts';

let fake: Fake;
beforeEach(async () => {
  fake = await makeFake();
});
afterEach(() => fake.dispose());

async function started(behaviour: Behaviour): Promise<{ directory: string; process: ProcessIdentity }> {
  const directory = await createRun(path.join(fake.folder, 'runs'), request(behaviour));
  fake.remember(directory);
  await launch(fake.environment, directory);
  return { directory, process: await processOf(directory) };
}

/** Who works on the run, once that is recorded. */
async function processOf(directory: string): Promise<ProcessIdentity> {
  return until(async () => (await readStatus(directory)).process ?? undefined);
}

async function readRun(directory: string) {
  const run = await new RunReader(directory).read();
  if (!run) {
    throw new Error(`${directory} is no run`);
  }
  return run;
}

/** The stand-in's own child, once it runs. */
async function childOf(directory: string): Promise<ProcessIdentity> {
  return until(async () => identify(Number(await readFile(path.join(directory, 'child'), 'utf8').catch(() => '-1'))));
}

const dead = (identity: ProcessIdentity) => until(async () => !(await isAlive(identity)));

describe.runIf(process.platform === 'linux')('a run’s process', () => {
  it('is in a session of its own, with its output in log.txt', async () => {
    const { directory, process: { pid } } = await started('works');
    const stat = (await readFile(`/proc/${pid}/stat`, 'utf8')).split(') ')[1]?.split(' ') ?? [];
    expect([stat[2], stat[3]]).toEqual([String(pid), String(pid)]);
    expect(await until(async () => (await readFile(path.join(directory, 'log.txt'), 'utf8')) || undefined)).toBe('the fake engine speaks\n');
  });

  it('outlives the process that launched it, also when that is killed', async () => {
    const directory = await createRun(path.join(fake.folder, 'runs'), request('works'));
    fake.remember(directory);
    const script = path.join(fake.folder, 'launcher.ts');
    const module = path.resolve(import.meta.dirname, '../../extension/engine/launch.ts');
    await writeFile(script, `import { launch } from ${JSON.stringify(module)};\nawait launch(${JSON.stringify(fake.environment)}, ${JSON.stringify(directory)});\nconsole.log('launched');\nsetInterval(() => {}, 1000);\n`);
    const launcher = spawn(process.execPath, [script], { stdio: ['ignore', 'pipe', 'inherit'] });
    await new Promise(resolve => launcher.stdout.once('data', resolve));
    const identity = await processOf(directory);
    launcher.kill('SIGKILL');
    await new Promise(resolve => launcher.once('exit', resolve));
    expect(await isAlive(identity)).toBe(true);
    await cancelRun({ directory });
    expect((await readStatus(directory)).state).toBe('cancelled');
  });

  it('that was killed leaves its run interrupted, which the first reader writes down', async () => {
    const { directory, process: identity } = await started('works');
    process.kill(identity.pid, 'SIGKILL');
    await dead(identity);
    const run = await readRun(directory);
    expect(run.state).toBe('interrupted');
    expect(run.status?.error?.remedy).toContain('Resume');
    expect((await readStatus(directory)).state).toBe('interrupted');
  });

  it('killed while cancelling leaves it cancelled', async () => {
    const { directory, process: identity } = await started('stubborn');
    await writeFile(path.join(directory, 'cancel'), '');
    process.kill(identity.pid, 'SIGKILL');
    await dead(identity);
    expect((await readRun(directory)).state).toBe('cancelled');
  });

  it('is not taken for another one with its number', async () => {
    const { directory, process: real } = await started('works');
    const bystander = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)'], { detached: true, stdio: 'ignore' });
    try {
      const status = await readStatus(directory);
      const reused = { ...real, pid: bystander.pid ?? 0 };
      await cancelRun({ directory }, { grace: 200 });
      await replaceJson(path.join(directory, 'status.json'), { ...status, state: 'running', process: reused } satisfies RunStatus);
      expect(await isAlive(reused)).toBe(false);
      expect(await signalGroup(reused, 'SIGKILL')).toBe(false);
      await cancelRun({ directory }, { grace: 200 });
      expect((await readStatus(directory)).state).toBe('cancelled');
      expect(await identify(reused.pid)).toBeDefined();
      expect(bystander.signalCode).toBeNull();
    } finally {
      bystander.kill('SIGKILL');
    }
  });

  it('that is dead but not reaped counts as dead', async () => {
    // What the shell has become does not reap: its child stays a zombie.
    const shell = spawn('sh', ['-c', 'sleep 1 & echo $!; exec sleep 30'], { stdio: ['ignore', 'pipe', 'ignore'] });
    try {
      const pid = Number(await new Promise<Buffer>(resolve => shell.stdout.once('data', resolve)));
      await until(async () => (await readFile(`/proc/${pid}/stat`, 'utf8')).includes(') Z '));
      expect(await identify(pid)).toBeUndefined();
    } finally {
      shell.kill('SIGKILL');
    }
  });
});

describe.runIf(process.platform === 'linux')('cancelling', () => {
  it('is done by the engine when it looks at the file', async () => {
    const { directory, process: identity } = await started('works');
    await cancelRun({ directory });
    expect((await readRun(directory)).summary.ended?.state).toBe('cancelled');
    await dead(identity);
  });

  it('goes on to SIGTERM', async () => {
    const { directory } = await started('ignores');
    await cancelRun({ directory }, { grace: 300 });
    expect((await readRun(directory)).summary.ended?.state).toBe('cancelled');
  });

  it('goes on to SIGKILL, for the whole group, and writes what the engine could not', async () => {
    const { directory, process: identity } = await started('parent');
    const child = await childOf(directory);
    await cancelRun({ directory }, { grace: 300 });
    expect((await readStatus(directory)).state).toBe('cancelled');
    expect((await readRun(directory)).summary.ended).toBeUndefined();
    await dead(identity);
    await dead(child);
  });

  it('takes workers along that outlived their leader', async () => {
    const { directory, process: identity } = await started('parent');
    const child = await childOf(directory);
    process.kill(identity.pid, 'SIGKILL');
    await dead(identity);
    expect(await isAlive(child)).toBe(true);
    await cancelRun({ directory }, { grace: 300 });
    await dead(child);
    expect((await readStatus(directory)).state).toBe('cancelled');
  });

  it('reaches a process that has not said a word yet', async () => {
    await writeFile(fake.environment.python, '#!/bin/sh\ntrap "" TERM\nsleep 100\nsleep 100\n');
    const directory = await createRun(path.join(fake.folder, 'runs'), request());
    await launch(fake.environment, directory);
    const identity = JSON.parse(await readFile(path.join(directory, 'launch.json'), 'utf8')) as ProcessIdentity;
    expect(await isAlive(identity)).toBe(true);
    await cancelRun({ directory }, { grace: 300 });
    await dead(identity);
    expect((await readStatus(directory)).state).toBe('cancelled');
  });

  it('ends a run that nothing was started for', async () => {
    const directory = await createRun(path.join(fake.folder, 'runs'), request());
    await cancelRun({ directory }, { grace: 100 });
    expect((await readStatus(directory)).state).toBe('cancelled');
  });

  it('leaves an ended run alone', async () => {
    const { directory, process: identity } = await started('quick');
    await dead(identity);
    await cancelRun({ directory });
    expect((await readStatus(directory)).state).toBe('done');
    await expect(access(path.join(directory, 'cancel'))).rejects.toThrow();
  });
});

describe('who is gone', () => {
  const now = Date.parse('2026-01-01T00:01:00Z');
  const ago = (seconds: number): string => new Date(now - 1000 * seconds).toISOString();
  const elsewhere: ProcessIdentity = { pid: 1, started: 'linux:x:1', host: `not-${os.hostname()}` };

  it.each<[string, RunStatus, boolean]>([
    ['queued without a process, just now', { state: 'queued', updated: ago(20) }, false],
    ['queued without a process, for long', { state: 'queued', updated: ago(31) }, true],
    ['on another host, heard of lately', { state: 'running', updated: ago(59), process: elsewhere }, false],
    ['on another host, silent', { state: 'running', updated: ago(61), process: elsewhere }, true],
    ['ended long ago', { state: 'done', updated: ago(9999), process: elsewhere }, false],
  ])('%s', async (_name, status, gone) => expect(await isAbandoned(fake.folder, status, now)).toBe(gone));

  it('is not who was started and has not said a word for long', async () => {
    const status: RunStatus = { state: 'queued', updated: ago(600) };
    const self = await identify(process.pid);
    expect(self).toBeDefined();
    await recordLaunch(fake.folder, self);
    expect(await isAbandoned(fake.folder, status, now)).toBe(false);
    await recordLaunch(fake.folder, self && { ...self, started: 'linux:x:1' });
    expect(await isAbandoned(fake.folder, status, now)).toBe(true);
  });

  it('is not written over a status that changed in the meantime', async () => {
    const directory = await createRun(path.join(fake.folder, 'runs'), request());
    const seen = await readFile(path.join(directory, 'status.json'), 'utf8');
    await replaceJson(path.join(directory, 'status.json'), { version: 1, state: 'done', updated: '2026-01-01T00:00:00Z' });
    expect(await settleAbandoned(directory, seen, false)).toBe(false);
    expect((await readStatus(directory)).state).toBe('done');
  });
});

describe.runIf(process.platform === 'linux')('again', () => {
  it('resumes in the same directory after a kill, with the journal going on', async () => {
    const { directory, process: identity } = await started('works');
    await expect(resumeRun({ directory, title: 'T' }, () => Promise.resolve())).rejects.toThrow('still at work');
    process.kill(identity.pid, 'SIGKILL');
    await dead(identity);
    await writeFile(path.join(directory, 'cancel'), '');
    const run = await readRun(directory);
    await resumeRun(run, each => launch(fake.environment, each));
    await until(async () => ((await readStatus(directory)).state === 'running' ? true : undefined));
    const resumed = await readRun(directory);
    expect(resumed.summary).toMatchObject({ seq: 2, starts: 2, started: { resumed: true } });
    expect(resumed.problem).toBeUndefined();
    await cancelRun({ directory });
  });

  it('waits for a process that has told its end and is not gone yet', async () => {
    const { directory, process: identity } = await started('works');
    await replaceJson(path.join(directory, 'status.json'), { ...(await readStatus(directory)), state: 'cancelled' });
    let launched = 0;
    const launchOnce = () => {
      launched += 1;
      return Promise.resolve();
    };
    const again = (patience?: number) => resumeRun({ directory, title: 'T' }, launchOnce, patience);
    await expect(again(1)).rejects.toThrow('has not ended yet');
    const waiting = again();
    process.kill(identity.pid, 'SIGKILL');
    await waiting;
    expect(launched).toBe(1);
  });

  it('runs the same request in a new directory, and deletes only what has ended', async () => {
    const { directory } = await started('works');
    const run = await readRun(directory);
    await expect(deleteRun(run)).rejects.toThrow('still at work');
    const again = await runAgain(run);
    expect(path.dirname(again)).toBe(path.dirname(directory));
    const repeated = await readRun(again);
    expect({ ...repeated.request, created: '' }).toEqual({ ...run.request, created: '' });
    expect(repeated.created > run.created).toBe(true);
    await cancelRun({ directory });
    await deleteRun(await readRun(directory));
    expect(await readdir(path.join(fake.folder, 'runs'))).toEqual([path.basename(again)]);
  });
});

describe('creating', () => {
  it('names a directory by UTC time and kind', () => {
    expect(runId('tensorize', new Date('2026-03-04T05:06:07.890Z'))).toMatch(/^20260304-050607-tensorize-[0-9a-f]{6}$/);
  });

  it('refuses a request that the schema does not allow, and leaves nothing', async () => {
    const root = path.join(fake.folder, 'other');
    const wrong = { ...request(), device: 7 } as unknown as ReturnType<typeof request>;
    await expect(createRun(root, wrong)).rejects.toThrow('device must be string');
    await expect(access(root)).rejects.toThrow();
  });
});
