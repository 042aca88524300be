/** The same fingerprint as the engine's, which is asked for it. */
import { execFile } from 'node:child_process';
import { appendFile, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { fingerprintOf } from '../../extension/checkpoint/index.ts';
import { projectRoot } from '../../extension/scripts/project.ts';
import { specs, writeModel, writeSharded } from './checkpoints.ts';

const python = process.env.BONDWISE_TEST_PYTHON;
const SOURCE = 'import sys; from pathlib import Path; from bondwise.checkpoint import open_checkpoint\nfor p in sys.argv[1:]: print(open_checkpoint(Path(p)).fingerprint())';
const config = { architectures: ['LlamaForCausalLM'], model_type: 'llama', name: 'ünïcode' };
const shapes = { 'model.embed_tokens.weight': [64, 32], 'model.layers.0.mlp.up_proj.weight': [48, 32], 'lm_head.weight': [64, 32] };

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'fingerprint-'));
});
afterAll(() => rm(folder, { recursive: true }));

describe.skipIf(!python)(python ? 'as the engine’s' : 'as the engine’s (skipped: BONDWISE_TEST_PYTHON names no Python; npm test sets it)', () => {
  test('of one file and of shards', async () => {
    const folders = [await writeModel(path.join(folder, 'one'), config, shapes), await writeSharded(path.join(folder, 'shards'), config, specs(shapes), 3)];
    const { stdout } = await promisify(execFile)(python ?? '', ['-c', SOURCE, ...folders], { cwd: path.join(projectRoot, 'engine') });
    expect(await Promise.all(folders.map(fingerprintOf))).toEqual(stdout.trim().split('\n'));
  });
});

test('another configuration or another header is another model', async () => {
  const one = await fingerprintOf(await writeModel(path.join(folder, 'a'), config, shapes));
  expect(await fingerprintOf(await writeModel(path.join(folder, 'b'), config, shapes))).toBe(one);
  expect(await fingerprintOf(await writeModel(path.join(folder, 'c'), config, { ...shapes, 'lm_head.weight': [32, 64] }))).not.toBe(one);
  await appendFile(path.join(folder, 'b', 'config.json'), ' ');
  expect(await fingerprintOf(path.join(folder, 'b'))).not.toBe(one);
  await expect(fingerprintOf(path.join(folder, 'nothing'))).rejects.toThrow();
});
