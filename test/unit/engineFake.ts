/** A folder with stand-ins for uv and Python, for tests of finding and making environments. Shell scripts: real processes, no network. */
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';

export interface Workshop {
  readonly folder: string;
  /** The only folder on PATH besides the system's. */
  readonly bin: string;
  readonly home: string;
  readonly engineDir: string;
  readonly env: NodeJS.ProcessEnv;
  /** Writes an executable shell script; @returns its path. */
  readonly script: (name: string, body: string, folder?: string) => Promise<string>;
  /** The commands that the stand-in for uv has got, one a line. */
  readonly calls: () => Promise<string[]>;
  readonly dispose: () => Promise<void>;
}

export const GOOD_PYTHON = `echo '{"version": [3, 12, 1], "missing": []}'`;

export async function makeWorkshop(): Promise<Workshop> {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'bondwise-engine-'));
  const [bin, home, engineDir] = [path.join(folder, 'bin'), path.join(folder, 'home'), path.join(folder, 'engine')];
  await mkdir(bin);
  await mkdir(path.join(engineDir, 'bondwise'), { recursive: true });
  await writeFile(path.join(engineDir, 'requirements.lock'), 'torch==1.0\n');
  await writeFile(path.join(engineDir, 'requirements-dev.lock'), 'torch==1.0\npytest==1.0\n');
  const script = async (name: string, body: string, where = bin): Promise<string> => {
    await mkdir(where, { recursive: true });
    const file = path.join(where, name);
    await writeFile(file, `#!/bin/sh\n${body}\n`);
    await chmod(file, 0o755);
    return file;
  };
  // The machine's own is slow to answer and not what is tested.
  await script('python3', 'exit 1');
  return {
    folder,
    bin,
    home,
    engineDir,
    script,
    // The stand-ins need sleep and cp.
    env: { PATH: `${bin}${path.delimiter}/usr/bin${path.delimiter}/bin`, HOME: folder },
    calls: async () => (await readFile(path.join(folder, 'calls'), 'utf8').catch(() => '')).split('\n').filter(Boolean),
    dispose: () => rm(folder, { recursive: true, force: true, maxRetries: 3 }),
  };
}

/**
 * A stand-in for uv that does what uv does as far as it can be seen: makes a folder with an interpreter, says what it downloads.
 * @param install shell commands run during `uv pip install`, after the first lines of output.
 * @param python body of the interpreter that it makes.
 */
export async function fakeUv(workshop: Workshop, { install = ':', python = GOOD_PYTHON, version = '0.9.1', where = workshop.bin } = {}): Promise<string> {
  return workshop.script(
    'uv',
    `case "$1 $2" in
--version*) echo 'uv ${version} (fake)'; exit 0 ;;
esac
echo "$*" >> '${workshop.folder}/calls'
case "$1 $2" in
"cache dir") echo '${workshop.folder}/cache' ;;
venv*)
  for directory; do :; done
  mkdir -p "$directory/bin"
  printf '#!/bin/sh\\n%s\\n' '${python.replaceAll("'", `'"'"'`)}' > "$directory/bin/python"
  chmod +x "$directory/bin/python" ;;
"pip install")
  echo 'Resolved 2 packages in 3ms' >&2
  echo 'Downloading torch (10.0MiB)' >&2
  ${install}
  echo ' Downloaded torch' >&2
  echo 'Prepared 2 packages in 1s' >&2
  echo 'Installed 2 packages in 10ms' >&2 ;;
esac`,
    where,
  );
}
