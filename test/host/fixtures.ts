/** Models and runs that the suites make for themselves, and the extension under test. */
import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import * as vscode from 'vscode';
import type { Api } from '../../extension/extension.ts';
import type { Evaluation, Lineage, RunRequest, RunStatus, TensorizeResult } from '../../extension/protocol/types.ts';
import { type Shapes, writeModel } from '../unit/checkpoints.ts';

export async function api(): Promise<Api> {
  const extension = vscode.extensions.getExtension<Api>('bondwise.bondwise');
  assert.ok(extension, 'the extension is there');
  return extension.activate();
}

export function workspaceFolder(): string {
  const folder = vscode.workspace.workspaceFolders?.[0]?.uri.fsPath;
  assert.ok(folder, 'a folder is open');
  return folder;
}

/** A folder of its own for a suite, outside the workspace. */
export async function temporary(): Promise<{ readonly folder: string; readonly remove: () => Promise<void> }> {
  const folder = await mkdtemp(path.join(tmpdir(), 'bondwise-host-'));
  return { folder, remove: () => rm(folder, { recursive: true, force: true }) };
}

/** Waits until `look` finds something; the extension follows files with a delay. */
export async function until<T>(what: string, look: () => T | undefined, milliseconds = 15_000): Promise<T> {
  const end = Date.now() + milliseconds;
  for (;;) {
    const found = look();
    if (found !== undefined) {
      return found;
    }
    assert.ok(Date.now() < end, `in time: ${what}`);
    await new Promise(resolve => setTimeout(resolve, 50));
  }
}

export const LLAMA = { model_type: 'llama', architectures: ['LlamaForCausalLM'] };

export function llamaShapes(blocks: number): Record<string, readonly number[]> {
  const shapes: Record<string, readonly number[]> = { 'model.embed_tokens.weight': [100, 16], 'model.norm.weight': [16], 'lm_head.weight': [100, 16] };
  for (let index = 0; index < blocks; index++) {
    const block = `model.layers.${index}`;
    shapes[`${block}.input_layernorm.weight`] = [16];
    shapes[`${block}.self_attn.q_proj.weight`] = [16, 16];
    shapes[`${block}.self_attn.o_proj.weight`] = [16, 16];
    shapes[`${block}.mlp.up_proj.weight`] = [48, 16];
    shapes[`${block}.mlp.down_proj.weight`] = [16, 48];
  }
  return shapes;
}

export async function writeLlama(folder: string, blocks = 2): Promise<string> {
  return writeModel(folder, LLAMA, llamaShapes(blocks));
}

/** A compressed model whose `up_proj` of block 1 has the bond dimension 4. */
export async function writeCompressed(folder: string): Promise<string> {
  const name = 'model.layers.1.mlp.up_proj';
  const rest = Object.entries(llamaShapes(2)).filter(([tensor]) => tensor !== `${name}.weight`);
  const shapes: Shapes = { ...Object.fromEntries(rest), [`${name}.cores.0.weight`]: [4, 16], [`${name}.cores.1.weight`]: [44, 4], [`${name}.order_1`]: ['I32', [48]] };
  const layer = { out_modes: [1, 48], in_modes: [16, 1], bond_dims: [4], out_features: 48, in_features: 16, bias: false };
  const mpo = { version: 2, base_model_type: 'llama', base_architecture: 'LlamaForCausalLM', layers: { [name]: layer } };
  await writeModel(folder, { model_type: 'bondwise_mpo', architectures: ['MPOForCausalLM'], mpo }, shapes);
  const lineage: Lineage = {
    version: 1,
    engine: '0.1.0',
    created: '2026-01-01T00:00:00Z',
    base: { path: '../base', name: 'base', fingerprint: '0' },
    request: {},
    result: tensorizeResult(folder, name),
  };
  await writeFile(path.join(folder, 'bondwise.json'), JSON.stringify(lineage));
  return folder;
}

export function tensorizeResult(output: string, layer: string): TensorizeResult {
  return {
    kind: 'tensorize',
    output,
    parameters: 6816,
    original_parameters: 7344,
    bytes: 13_824,
    original_bytes: 14_688,
    layers: [
      {
        name: layer,
        out_modes: [1, 48],
        in_modes: [16, 1],
        bond_dims: [4],
        parameters: 240,
        original_parameters: 768,
        bytes: 672,
        original_bytes: 1536,
        keep: 240 / 768,
        relative_error: 0.5,
        multiply_adds: 240,
        original_multiply_adds: 768,
        seconds: 0.1,
      },
    ],
    original: evaluation(20),
    compressed: evaluation(25),
    logits_difference: 0,
    seconds: 3,
  };
}

/** Writes a run directory as the engine would, under a temporary name first. */
export async function writeRun(root: string, id: string, request: Partial<RunRequest>, status: Partial<RunStatus>): Promise<string> {
  const directory = path.join(root, id);
  const begun = path.join(root, `.new-${id}`);
  await mkdir(path.join(begun, 'checkpoints'), { recursive: true });
  const complete = {
    version: 1,
    created: '2026-01-01T00:00:00Z',
    title: 'Tensorize 2 layers, χ 4',
    kind: 'tensorize',
    model: '/models/base',
    options: { tensorize: [{ layers: ['*'], chi: 4 }], output: '/models/small' },
    ...request,
  };
  await writeFile(path.join(begun, 'run.json'), JSON.stringify(complete));
  await writeStatus(begun, status);
  await rename(begun, directory);
  return directory;
}

export async function writeStatus(directory: string, status: Partial<RunStatus>): Promise<void> {
  const temporaryFile = path.join(directory, '.status.tmp');
  await writeFile(temporaryFile, JSON.stringify({ version: 1, state: 'queued', updated: new Date().toISOString(), ...status }));
  await rename(temporaryFile, path.join(directory, 'status.json'));
}

function evaluation(perplexity: number): Evaluation {
  return { data: 'builtin', perplexity, standard_error: 0.5, tokens: 100, tokens_per_second: 50, prompt: 'One', sample: ' two' };
}
