/**
 * The core broken on purpose, one line at a time, in a copy: signs, off by one, swapped modes, a skipped fsync. The test files that are
 * named with each mutant must notice. First they run on the copy as it is, so that a test that always fails does not count.
 */
import { spawn } from 'node:child_process';
import { cp, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { engineVariables } from '../../extension/engine/find.ts';
import { projectRoot } from '../../extension/scripts/project.ts';
import type { Options, Row } from './torture.ts';

interface Mutant {
  readonly file: string;
  readonly from: string;
  readonly to: string;
  /** A test file and, for pytest, which of its tests. */
  readonly test: string;
  readonly only?: string;
}

const engine = (file: string, from: string, to: string, test: string, only?: string): Mutant => ({ file: `engine/bondwise/${file}`, from, to, test: `test/engine/${test}`, ...(only !== undefined && { only }) });
const host = (file: string, from: string, to: string, test: string): Mutant => ({ file, from, to, test });

const MUTANTS: readonly Mutant[] = [
  engine('mpo.py', 'return stored - sum(bond**2 for bond in bond_dims)', 'return stored + sum(bond**2 for bond in bond_dims)', 'test_mpo.py', 'counts or low_rank'),
  engine('mpo.py', 'balanced_modes(in_features, sites)[::-1]', 'balanced_modes(in_features, sites)', 'test_mpo.py', 'modes or paper'),
  engine('mpo.py', 'order = [*range(0, 2 * sites, 2), *range(1, 2 * sites, 2)]', 'order = [*range(1, 2 * sites, 2), *range(0, 2 * sites, 2)]', 'test_mpo.py', 'contract'),
  engine('mpo.py', 'pairs = [index for k in range(sites) for index in (k, sites + k)]', 'pairs = [index for k in range(sites) for index in (sites + k, k)]', 'test_mpo.py', 'lossless'),
  engine('mpo.py', 'low, high = (middle, high) if parameters(middle) <= budget else (low, middle - 1)', 'low, high = (middle, high) if parameters(middle) < budget else (low, middle - 1)', 'test_mpo.py', 'keep'),
  engine('mpo.py', 'allowed = None if error is None else max(0.0, unspent / (len(bonds) - k))', 'allowed = None if error is None else max(0.0, unspent)', 'test_mpo.py', 'error_is_kept'),
  engine('mpo.py', 'return tuple(min(math.prod(sizes[:k]), math.prod(sizes[k:])) for', 'return tuple(max(math.prod(sizes[:k]), math.prod(sizes[k:])) for', 'test_mpo.py', 'bond_dims'),
  engine('gauge.py', 'coefficients.addr_(coefficients[:, column].clone(), change, alpha=-1 / float(pivot))', 'coefficients.addr_(coefficients[:, column].clone(), change, alpha=1 / float(pivot))', 'test_gauge.py'),
  engine('weighted.py', 'factor.mT @ mixed @ factor', 'factor @ mixed @ factor.mT', 'test_weighted.py'),
  engine('weighted.py', 'return max(float((left * (change @ by_input)).sum()) / 2, 0.0)', 'return max(float((left * (change @ by_input)).sum()), 0.0)', 'test_weighted.py'),
  engine('shrinkage.py', 'return _part_of(share * (1 - share) * _apart(whole, half, share), whole)', 'return _part_of(_apart(whole, half, share), whole)', 'test_shrinkage.py'),
  engine('allocate.py', 'while len(hull) > 1 and _slope(hull[-2], corner) <= _slope(hull[-2], hull[-1])', 'while len(hull) > 1 and _slope(hull[-2], corner) >= _slope(hull[-2], hull[-1])', 'test_plan.py', 'exchange_curve'),
  engine('allocate.py', 'for number in range(step.point + 1) if others + candidate.saved(number, unit) >= needed', 'for number in range(step.point + 1) if others + candidate.saved(number, unit) >= 0.9 * needed', 'test_plan.py', 'meets_the_budget'),
  engine('rounding.py', 'scales = _safe(groups.abs().amax(2) / float(levels.abs().max())).half()', 'scales = _safe(groups.amax(2) / float(levels.abs().max())).half()', 'test_rounding.py'),
  engine('heal_loss.py', 'return kl, found.exp().sub_(expected)', 'return kl, expected.sub_(found.exp())', 'test_heal_loss.py'),
  engine('heal_loss.py', 'mixed += distill * temperature**2 * kl', 'mixed += distill * temperature * kl', 'test_heal_loss.py'),
  engine('journal.py', 'seq = self.last["seq"] + 1 if self.last else 1', 'seq = self.last["seq"] + 2 if self.last else 1', 'test_run.py', 'torn or newline'),
  engine('journal.py', '            os.fsync(self._file)\n            self.last', '            self.last', 'test_durable.py'),
  engine('atomic.py', '            if durable:\n                os.fsync(file.fileno())\n', '', 'test_durable.py'),
  engine('atomic.py', '            sync_file(Path(folder, name))\n', '            pass\n', 'test_durable.py'),
  engine('queue.py', 'for other in sorted(_tickets(folder)):\n            if other >= number:', 'for other in sorted(_tickets(folder)):\n            if other >= number - 1:', 'test_queue.py'),
  engine('trust.py', 'theirs.read_bytes() == ours.read_bytes()', 'True', 'test_checkpoint.py', 'own_module'),
  engine('trust.py', 'if code_hash(Path(folder)) != expected:', 'if False:', 'test_own_code_compress.py', 'changed_since'),
  engine('checkpoint.py', 'if len(fields) < len(pairs):', 'if False:', 'test_checkpoint.py', 'twice or damaged or header or broken'),
  engine('spectral.py', '_tails(by_inputs), _tails(fisher)]) / 2', '_tails(by_inputs), _tails(fisher)])', 'test_spectral.py'),
  host('extension/safetensors-ts/src/header.ts', 'if (covered !== source.dataBytes) throw', 'if (covered > source.dataBytes) throw', 'extension/safetensors-ts/test/safetensors.test.ts'),
  host('extension/safetensors-ts/src/shard-index.ts', "if (name === '.' || name.includes('..'))", "if (name === '.')", 'extension/safetensors-ts/test/safetensors.test.ts'),
  host('extension/plan/choices.ts', 'return through - (plainChain ? squares(bondDims) : 0);', 'return through;', 'test/unit/choices.test.ts'),
  host('extension/runs/journal.ts', 'this.#offset -= this.#rest.length;', '', 'test/unit/runsJournal.test.ts'),
  host('extension/runs/files.ts', "await rename(temporary, file);", "await rename(temporary, `${file}~`);", 'test/unit/runsControl.test.ts'),
  host('extension/runs/healFold.ts', '>= step;', '> step;', 'test/unit/healFold.test.ts'),
];

export async function torture({ size, python }: Options): Promise<Row[]> {
  if (size === 'short') return [];
  const copy = await mkdtemp(path.join(tmpdir(), 'bondwise-mutants-'));
  try {
    await makeCopy(copy);
    const environment = await python();
    const env = { ...process.env, ...engineVariables({ ...environment, engineDir: path.join(copy, 'engine') }), OMP_NUM_THREADS: '1', PYTHONDONTWRITEBYTECODE: '1' };
    const passes = (mutant: Mutant): Promise<boolean> => run(mutant.test.endsWith('.py') ? pytest(environment.python, mutant) : vitest(mutant), mutant.test.endsWith('.py') ? path.join(copy, 'engine') : copy, env);
    const sound = new Map<string, boolean>();
    const failures: string[] = [];
    let caught = 0;
    for (const mutant of MUTANTS) {
      const what = `${mutant.file}: ${mutant.from.trim().split('\n')[0] ?? ''} → ${mutant.to.trim().split('\n')[0] ?? ''}`;
      const key = `${mutant.test} ${mutant.only ?? ''}`;
      if (!sound.has(key)) sound.set(key, await passes(mutant));
      const file = path.join(copy, mutant.file);
      const text = await readFile(file, 'utf8');
      if (sound.get(key) !== true) failures.push(`${key} fails as it is`);
      else if (text.split(mutant.from).length !== 2) failures.push(`${what}: that line is not there once`);
      else {
        await writeFile(file, text.replace(mutant.from, () => mutant.to));
        const survived = await passes(mutant);
        await writeFile(file, text);
        if (survived) failures.push(`${what}: ${key} did not notice`);
        else caught++;
      }
      console.log(`  ${failures.at(-1)?.startsWith(what) === true ? '✖' : '✔'} ${what.slice(0, 150)}`);
    }
    return [{ what: 'lines of the core broken on purpose', unit: 'mutants', tried: MUTANTS.length, stood: caught, failures, note: 'noticed by the test files named with each' }];
  } finally {
    await rm(copy, { recursive: true, force: true });
  }
}

async function makeCopy(copy: string): Promise<void> {
  for (const part of ['engine', 'extension', 'webview', 'test/engine', 'test/unit', 'test/fixtures', 'vitest.config.ts', 'package.json', 'package.nls.json', 'tsconfig.json']) {
    await mkdir(path.dirname(path.join(copy, part)), { recursive: true });
    await cp(path.join(projectRoot, part), path.join(copy, part), { recursive: true, filter: source => !/__pycache__|node_modules|\.pytest_cache/.test(path.relative(projectRoot, source)) });
  }
  await symlink(path.join(projectRoot, 'node_modules'), path.join(copy, 'node_modules'));
}

function pytest(python: string, { test, only }: Mutant): string[] {
  return [python, '-m', 'pytest', '-x', '-q', '-p', 'no:cacheprovider', path.join('..', test), ...(only === undefined ? [] : ['-k', only])];
}

function vitest({ test }: Mutant): string[] {
  return [process.execPath, path.join(projectRoot, 'node_modules/vitest/vitest.mjs'), 'run', '--bail=1', test];
}

/** Whether the program ended with 0, which pytest does only when at least one test ran. */
function run([program = '', ...args]: readonly string[], cwd: string, env: NodeJS.ProcessEnv): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { cwd, env, stdio: 'ignore', timeout: 300_000 });
    child.on('error', reject);
    child.on('close', code => resolve(code === 0));
  });
}
