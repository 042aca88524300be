/** Making the environment, with stand-ins for uv and pip as real processes. */
import { access, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { type ChildProcess, spawn } from 'node:child_process';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { setUpEnvironment, type SetUpOptions } from '../../extension/engine/setup.ts';
import { environmentDirectory } from '../../extension/engine/home.ts';
import { uvVariables } from '../../extension/engine/uv.ts';
import { identify } from '../../extension/runs/process.ts';
import { fakeUv, GOOD_PYTHON, makeWorkshop, type Workshop } from './engineFake.ts';
import { until } from './runsFake.ts';

let workshop: Workshop;
let children: ChildProcess[];
beforeEach(async () => {
  workshop = await makeWorkshop();
  children = [];
});
afterEach(async () => {
  children.forEach(child => child.kill('SIGKILL'));
  await workshop.dispose();
});

const setUp = (options: Partial<SetUpOptions> = {}) => setUpEnvironment({ engineDir: workshop.engineDir, home: workshop.home, env: workshop.env, ...options });
const directory = () => environmentDirectory(workshop.home, workshop.engineDir, 'requirements.lock');
const marked = async () => access(path.join(await directory(), '.complete')).then(() => true, () => false);
const installs = async () => (await workshop.calls()).filter(call => call.startsWith('pip install')).length;
const written = (name: string) => until(() => readFile(path.join(workshop.folder, name), 'utf8').catch(() => undefined));
const gone = (pid: number) => until(async () => (await identify(pid)) === undefined);

describe('set-up', () => {
  it('makes an environment from the lock with hashes, and the second time finds it', async () => {
    await fakeUv(workshop);
    const phases: string[] = [];
    const environment = await setUp({ onProgress: ({ phase }) => phases.at(-1) !== phase && phases.push(phase) });
    expect(environment).toMatchObject({ source: 'bondwise', version: '3.12.1', python: path.join(await directory(), 'bin', 'python') });
    expect(phases).toEqual(['Getting uv', 'Making the environment', 'Finding the packages', 'Downloading', 'Installing', 'Trying it out']);
    const install = (await workshop.calls()).find(call => call.startsWith('pip install'));
    expect(install).toContain('--require-hashes');
    expect(install).toContain(path.join(workshop.engineDir, 'requirements.lock'));
    expect(await setUp()).toEqual(environment);
    expect(await installs()).toBe(1);
    expect(await readdir(path.join(workshop.home, 'setup'))).toEqual([]);
  });

  it('tells packages and bytes', async () => {
    await fakeUv(workshop, { install: 'sleep 1' });
    const told: unknown[] = [];
    await setUp({ onProgress: ({ packages, bytes }) => told.push({ packages, bytes }) });
    expect(told).toContainEqual({ packages: 2, bytes: { done: 0, total: 10 * 2 ** 20 } });
  });

  it('makes anew what has no marker, what does not work any more, and what shall be repaired', async () => {
    await fakeUv(workshop);
    await mkdir(path.join(await directory(), 'bin'), { recursive: true });
    await writeFile(path.join(await directory(), 'left over'), '');
    const { python } = await setUp();
    await expect(access(path.join(await directory(), 'left over'))).rejects.toThrow();
    await writeFile(python, '#!/nowhere\n');
    await setUp();
    expect(await installs()).toBe(2);
    await setUp({ repair: true });
    expect(await installs()).toBe(3);
  });

  it('tells what uv said when it failed, and leaves nothing that looks whole', async () => {
    await fakeUv(workshop, { install: 'echo "error: Failed to fetch torch" >&2; echo "  Caused by: dns error" >&2; exit 1' });
    await expect(setUp()).rejects.toMatchObject({ message: expect.stringMatching(/error: Failed to fetch torch\n {2}Caused by: dns error/) as string, remedy: expect.stringContaining('network') as string });
    expect(await marked()).toBe(false);
    await fakeUv(workshop, { install: 'echo "error: No space left on device (os error 28)" >&2; exit 2' });
    await expect(setUp()).rejects.toMatchObject({ remedy: expect.stringContaining('BONDWISE_HOME') as string });
    await fakeUv(workshop, { python: 'case "$*" in *"import torch"*) echo "ImportError: libcudart" >&2; exit 1 ;; esac; echo \'{"version": [3, 12, 1], "missing": []}\'' });
    await expect(setUp()).rejects.toThrow('does not work: ImportError: libcudart');
    await expect(access(await directory())).rejects.toThrow();
  });

  it('stops at once when cancelled, with all that it has started, and can be done again', async () => {
    const pids = `echo $$ > '${workshop.folder}/uv.new'; sleep 100 & echo $! >> '${workshop.folder}/uv.new'; mv '${workshop.folder}/uv.new' '${workshop.folder}/pids'; wait`;
    await fakeUv(workshop, { install: pids });
    const abort = new AbortController();
    const made = setUp({ signal: abort.signal });
    const [uv = 0, grandchild = 0] = (await written('pids')).trim().split('\n').map(Number);
    abort.abort();
    await expect(made).rejects.toMatchObject({ name: 'AbortError' });
    await gone(uv);
    await gone(grandchild);
    await expect(access(await directory())).rejects.toThrow();
    await fakeUv(workshop);
    await setUp();
    expect(await marked()).toBe(true);
  });
});

describe.runIf(process.platform === 'linux')('several at the same time', () => {
  /** A process of its own that sets up, and says so when it is done. */
  async function contender(): Promise<ChildProcess> {
    const file = path.join(workshop.folder, 'contender.ts');
    const module = path.resolve(import.meta.dirname, '../../extension/engine/setup.ts');
    const options = JSON.stringify({ engineDir: workshop.engineDir, home: workshop.home, env: workshop.env });
    await writeFile(file, `import { setUpEnvironment } from ${JSON.stringify(module)};\nconsole.log((await setUpEnvironment(${options})).version);\n`);
    const child = spawn(process.execPath, [file], { stdio: ['ignore', 'pipe', 'inherit'] });
    children.push(child);
    return child;
  }
  const ended = (child: ChildProcess) => new Promise(resolve => child.once('exit', code => resolve(code)));

  it('make it once', async () => {
    await fakeUv(workshop, { install: 'sleep 0.5' });
    const all = await Promise.all([contender(), contender(), contender(), contender()]);
    expect(await Promise.all(all.map(ended))).toEqual([0, 0, 0, 0]);
    expect(await installs()).toBe(1);
  }, 90_000);

  it('take over from one that was killed, after its uv has been ended', async () => {
    await fakeUv(workshop, { install: `echo $$ > '${workshop.folder}/pid.new'; mv '${workshop.folder}/pid.new' '${workshop.folder}/pid'; sleep 100` });
    const first = await contender();
    const uv = Number(await written('pid'));
    const [lock = ''] = await readdir(path.join(workshop.home, 'setup'));
    await until(async () => (await readFile(path.join(workshop.home, 'setup', lock), 'utf8')).includes(`"pid": ${uv},`));
    first.kill('SIGKILL');
    await ended(first);
    expect(await identify(uv)).toBeDefined();
    await fakeUv(workshop, { install: `if grep -q 'State:.[^ZX]' /proc/${uv}/status; then touch '${workshop.folder}/both'; fi` });
    await setUp();
    await gone(uv);
    await expect(access(path.join(workshop.folder, 'both'))).rejects.toThrow();
    expect(await marked()).toBe(true);
  }, 90_000);
});

describe('uv', () => {
  /** Python with pip: `-m pip install … --target DIR uv` puts a stand-in for uv there. */
  const pip = (source: string) => `case "$*" in
*"pip install"*--target*) while [ "$1" != --target ]; do shift; done; mkdir -p "$2/bin"; cp '${source}' "$2/bin/uv" ;;
*sys.executable*) echo "$0" ;;
*) exit 1 ;;
esac`;

  it('is brought by pip when PATH has none or an old one, and kept', async () => {
    await fakeUv(workshop, { version: '0.1.5' });
    const source = await fakeUv(workshop, { where: path.join(workshop.folder, 'index') });
    await workshop.script('python3', pip(source));
    await setUp();
    expect(await readFile(path.join(workshop.home, 'bootstrap', '.complete'), 'utf8')).toBe(path.join(workshop.home, 'bootstrap', 'bin', 'uv'));
    await workshop.script('python3', 'exit 1');
    await setUp({ repair: true });
    expect(await installs()).toBe(2);
  });

  it('is made out by an environment of its own where Python has no pip', async () => {
    const source = await fakeUv(workshop, { where: path.join(workshop.folder, 'index') });
    const inner = `#!/bin/sh\nmkdir -p "$(dirname "$0")"; cp '${source}' "$(dirname "$0")/uv"\n`;
    await writeFile(path.join(workshop.folder, 'inner'), inner, { mode: 0o755 });
    await workshop.script('python3', `case "$*" in
*"-m venv "*) mkdir -p "$3/bin"; cp '${workshop.folder}/inner' "$3/bin/python" ;;
*sys.executable*) echo "$0" ;;
*) echo "No module named pip" >&2; exit 1 ;;
esac`);
    await setUp();
    expect(await marked()).toBe(true);
  });

  it('cannot be had without Python: that is said with what to do', async () => {
    await rm(path.join(workshop.bin), { recursive: true });
    await mkdir(workshop.bin);
    const alone = { ...workshop.env, PATH: workshop.bin };
    await expect(setUp({ env: alone })).rejects.toMatchObject({ message: 'Neither uv nor Python is on PATH.', remedy: expect.stringContaining('Install Python') as string });
  });

  it('gets the package index and certificates that pip is set to', async () => {
    await workshop.script('python3', `echo "global.index-url='https://index.invalid/simple'"; echo "global.cert='/etc/c.pem'"; echo ":env:.cert='/no'"`);
    expect(await uvVariables(workshop.env)).toMatchObject({ UV_DEFAULT_INDEX: 'https://index.invalid/simple', SSL_CERT_FILE: '/etc/c.pem' });
    expect(await uvVariables({ ...workshop.env, UV_DEFAULT_INDEX: 'https://mine.invalid', SSL_CERT_FILE: '/mine.pem' })).toMatchObject({
      UV_DEFAULT_INDEX: 'https://mine.invalid',
      SSL_CERT_FILE: '/mine.pem',
    });
    await workshop.script('python3', GOOD_PYTHON);
    expect(await uvVariables(workshop.env)).not.toHaveProperty('UV_DEFAULT_INDEX');
  });
});
