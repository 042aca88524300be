/**
 * `npm run lock [-- --upgrade] [-- --measure]`: engine/requirements*.in → engine/requirements*.lock, universal, with hashes and without
 * addresses. Versions stay as they are unless --upgrade is given. With --measure the sizes for the user's consent are measured anew, by
 * downloading what each platform needs into an empty cache: some gigabytes, once a lock.
 */
import { createHash } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { bondwiseHome, type Lock } from '../engine/home.ts';
import { type EnvironmentSize, readSizes, type Sizes, SIZES_FILE } from '../engine/sizes.ts';
import { announced, readUvLine, UV_START, uvFailure } from '../engine/uv-output.ts';
import { type ChildOptions, runChild } from '../engine/children.ts';
import { ensureUv, uvVariables } from '../engine/uv.ts';
import { replaceFile } from '../runs/files.ts';
import { formatBytes } from '../runs/format.ts';
import { engineDir } from './environment.ts';
import { main, ScriptError, step } from './terminal.ts';

const LOCKS: readonly { readonly from: string; readonly lock: Lock }[] = [
  { from: 'requirements.in', lock: 'requirements.lock' },
  // After the other: it is held to the same versions.
  { from: 'requirements-dev.in', lock: 'requirements-dev.lock' },
];
/** Node's name of a platform → uv's. */
const PLATFORMS: Readonly<Record<string, string>> = {
  'linux-x64': 'x86_64-manylinux_2_28',
  'linux-arm64': 'aarch64-manylinux_2_28',
  'darwin-arm64': 'aarch64-apple-darwin',
  'win32-x64': 'x86_64-pc-windows-msvc',
};
const OVERRIDES = 'requirements.overrides';
const MEASURED: Lock = 'requirements.lock';
const OLDEST_PYTHON = '3.11';

await main(async () => {
  const { values } = parseArgs({ options: { upgrade: { type: 'boolean', default: false }, measure: { type: 'boolean', default: false } } });
  const env = await uvVariables(process.env);
  const child: ChildOptions = { cwd: engineDir, env };
  const uv = await ensureUv(bondwiseHome(), env, child);
  for (const { from, lock } of LOCKS) {
    const options = ['--quiet', '--universal', '--generate-hashes', '--no-header', '--no-annotate', '--no-emit-index-url', '--python-version', OLDEST_PYTHON, '--override', OVERRIDES];
    await run(uv, ['pip', 'compile', ...options, ...(values.upgrade ? ['--upgrade'] : []), from, '-o', lock], child);
  }
  if (values.measure) {
    await measureAll(uv, child);
  } else if ((await readSizes(engineDir))[MEASURED]?.sha256 !== (await sha256Of(MEASURED))) {
    console.log(`The sizes in ${SIZES_FILE} are of an older lock, so the extension names none: npm run lock -- --measure`);
  }
  return 0;
});

/** Of the engine's lock only: the tests' environment is made by developers, who are asked nothing. What this lock has already stays. */
async function measureAll(uv: string, child: ChildOptions): Promise<void> {
  const sha256 = await sha256Of(MEASURED);
  const known = (await readSizes(engineDir))[MEASURED];
  let platforms = known?.sha256 === sha256 ? known.platforms : {};
  for (const [name, platform] of Object.entries(PLATFORMS).filter(([each]) => !(each in platforms))) {
    const size = await step(name, () => measure(uv, child, platform));
    console.log(`${name}: ${formatBytes(size.download)} to download, ${formatBytes(size.installed)} on disk`);
    platforms = { ...platforms, [name]: size };
    await replaceFile(path.join(engineDir, SIZES_FILE), `${JSON.stringify({ [MEASURED]: { sha256, platforms } } satisfies Sizes, null, 2)}\n`);
  }
}

async function measure(uv: string, child: ChildOptions, platform: string): Promise<EnvironmentSize> {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'bondwise-measure-'));
  try {
    let state = UV_START;
    const target = path.join(folder, 'target');
    const options = ['--python-platform', platform, '--python-version', OLDEST_PYTHON, '--only-binary', ':all:', '--no-deps', '--require-hashes', '--target', target];
    await run(uv, ['pip', 'install', ...options, '-r', MEASURED], {
      ...child,
      // torch's wheels ask for macOS 14; uv takes 13 where it is not told.
      env: { ...child.env, UV_CACHE_DIR: path.join(folder, 'cache'), MACOSX_DEPLOYMENT_TARGET: '14.0' },
      onLine: line => {
        state = readUvLine(state, line);
      },
    });
    return { download: announced(state), installed: await bytesIn(target) };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function bytesIn(folder: string): Promise<number> {
  let bytes = 0;
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    bytes += entry.isFile() ? (await stat(path.join(entry.parentPath, entry.name))).size : 0;
  }
  return bytes;
}

async function sha256Of(lock: Lock): Promise<string> {
  return createHash('sha256').update(await readFile(path.join(engineDir, lock))).digest('hex');
}

async function run(uv: string, args: readonly string[], child: ChildOptions): Promise<void> {
  const { ok, output, how } = await runChild(uv, args, child);
  if (!ok) {
    throw new ScriptError(`uv ${args.slice(0, 2).join(' ')} failed (${how}).\n${uvFailure(output)}`);
  }
}
