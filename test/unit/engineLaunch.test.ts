import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { doctor, inspect, runEngine } from '../../extension/engine/command.ts';
import { type Environment, findEnvironment } from '../../extension/engine/find.ts';
import { launch } from '../../extension/engine/launch.ts';
import { isDoctor } from '../../extension/protocol/validate.js';
import { createRun } from '../../extension/runs/create.ts';
import { cancelRun } from '../../extension/runs/control.ts';
import { isAlive } from '../../extension/runs/process.ts';
import { RunReader } from '../../extension/runs/reader.ts';
import { isActive } from '../../extension/runs/run.ts';
import { projectRoot } from '../../extension/scripts/project.ts';
import { makeWorkshop, type Workshop } from './engineFake.ts';
import { readStatus, request, until } from './runsFake.ts';

describe('launching with an environment that is broken', () => {
  let workshop: Workshop;
  let environment: Environment;
  beforeEach(async () => {
    workshop = await makeWorkshop();
    environment = { python: path.join(workshop.bin, 'python'), version: '3.11.0', source: 'bondwise', engineDir: workshop.engineDir, home: workshop.home };
  });
  afterEach(() => workshop.dispose());

  const newRun = () => createRun(path.join(workshop.folder, 'runs'), request());
  const failed = (directory: string) =>
    until(async () => {
      const status = await readStatus(directory);
      return status.state === 'failed' && status;
    });

  it('fails the run when there is no interpreter', async () => {
    const directory = await newRun();
    await launch(environment, directory);
    const { error } = await readStatus(directory);
    expect(error?.message).toMatch(/^The engine did not start with .*python \(.*ENOENT\)/);
    expect(error?.remedy).toContain('Set Up Engine');
  });

  it('fails the run with the reason when the interpreter dies before the engine speaks', async () => {
    await workshop.script('python', 'echo "Traceback (most recent call last):" >&2; echo "ModuleNotFoundError: No module named \'pydantic\'" >&2; exit 1');
    const directory = await newRun();
    await writeFile(path.join(directory, 'log.txt'), 'what an earlier process wrote ✓\n');
    await launch(environment, directory);
    const { error } = await failed(directory);
    expect(error?.message).toBe(`The engine did not start with ${environment.python} (exit status 1): ModuleNotFoundError: No module named 'pydantic'`);
    expect(error?.detail).toMatch(/^Traceback/);
    expect(await readFile(path.join(directory, 'log.txt'), 'utf8')).toMatch(/^what an earlier process wrote ✓\nTraceback/);
  });

  it('tells by which signal it was killed', async () => {
    await workshop.script('python', 'kill -9 $$');
    const directory = await newRun();
    await launch(environment, directory);
    expect((await failed(directory)).error?.message).toContain('killed by SIGKILL');
  });

  it('leaves alone what the engine has written itself', async () => {
    await workshop.script('python', `for directory; do :; done
echo '{"version": 1, "state": "failed", "updated": "2026-01-01T00:00:00Z", "error": {"message": "from the engine"}}' > "$directory/status.json"; touch "$directory/over"; exit 1`);
    const directory = await newRun();
    await launch(environment, directory);
    await until(() => readFile(path.join(directory, 'over')).catch(() => undefined));
    expect((await readStatus(directory)).error?.message).toBe('from the engine');
  });

  it('gives a command’s failure as its reason', async () => {
    await workshop.script('python', 'echo "No such model: x" >&2; exit 1');
    await expect(inspect(environment, 'x')).rejects.toMatchObject({ name: 'EngineError', message: 'No such model: x', exitCode: 1 });
    await workshop.script('python', 'echo "Traceback (most recent call last):" >&2; echo "ValueError: χ" >&2; exit 1');
    await expect(doctor(environment)).rejects.toThrow(/^ValueError: χ$/);
    await workshop.script('python', 'echo progress; echo \'{"engine": 1}\'');
    await expect(doctor(environment)).rejects.toThrow('the answer of “doctor” is not valid');
    await rm(environment.python);
    await expect(doctor(environment)).rejects.toThrow('cannot be run');
  });

  it('ends a command at once when it is cancelled', async () => {
    await workshop.script('python', `touch '${workshop.folder}/runs'; exec sleep 100`);
    const abort = new AbortController();
    const asked = runEngine(environment, ['doctor'], isDoctor, { signal: abort.signal });
    await until(() => readFile(path.join(workshop.folder, 'runs')).catch(() => undefined));
    abort.abort();
    await expect(asked).rejects.toMatchObject({ name: 'AbortError' });
  });
});

const python = process.env.BONDWISE_TEST_PYTHON;

describe.skipIf(!python)(python ? 'the real engine' : 'the real engine (skipped: BONDWISE_TEST_PYTHON names no Python; npm test sets it)', () => {
  let folder: string;
  let environment: Environment;
  beforeEach(async () => {
    folder = await mkdtemp(path.join(os.tmpdir(), 'bondwise-real-'));
    const found = await findEnvironment({ engineDir: path.join(projectRoot, 'engine'), setting: python, home: path.join(folder, 'home') });
    if (found.python === undefined) {
      throw new Error(`BONDWISE_TEST_PYTHON=${python ?? ''}: ${found.tried[0]?.reason ?? ''}`);
    }
    environment = found;
  });
  afterEach(() => rm(folder, { recursive: true, force: true, maxRetries: 3 }));

  it('answers the doctor, whatever lies in the folder where it is asked', async () => {
    await writeFile(path.join(folder, 'torch.py'), 'raise SystemExit("the workspace ran")\n');
    await mkdir(path.join(folder, 'bondwise'));
    await writeFile(path.join(folder, 'bondwise', '__main__.py'), 'raise SystemExit("the workspace ran")\n');
    const answer = await doctor(environment, { cwd: folder });
    expect(answer.torch).toMatch(/^\d+\./);
    expect(answer.python_version).toBe(environment.version);
  }, 120_000);

  it('says why a folder cannot be inspected', async () => {
    await expect(inspect(environment, path.join(folder, 'no model'))).rejects.toThrow(/no model/);
  }, 120_000);

  it('takes up a run, writes its journal, and tells why it failed', async () => {
    const directory = await createRun(path.join(folder, 'runs'), {
      version: 1,
      kind: 'perplexity',
      created: new Date().toISOString(),
      title: 'Perplexity of nothing',
      model: path.join(folder, 'no model'),
      device: 'cpu',
      options: {},
    });
    await launch(environment, directory);
    const reader = new RunReader(directory);
    const run = await until(async () => {
      const now = await reader.read();
      return now && !isActive(now.state) && now;
    });
    expect(run.state).toBe('failed');
    expect(run.problem).toBeUndefined();
    expect(run.status?.error?.message).toContain('no model');
    expect(run.summary.ended?.state).toBe('failed');
    await cancelRun(run);
    expect((await reader.read())?.state).toBe('failed');
    const worker = run.status?.process;
    await until(async () => !worker || !(await isAlive(worker)));
  }, 120_000);
});
