/**
 * Opening checkpoints by their headers: a 70B-shaped one in 30 shards (target: first open under 100 ms) and one of 500,000 tensors in 160
 * shards (target: under 1.5 s, no block of the event loop over 50 ms). Headers are real, data is sparse.
 *
 * Each row is a process of its own, as the extension host is: `first_ms` is its first open with nothing compiled yet, `median_ms` that of
 * nine or three more, `longest_block_ms` the worst of all, `heap_mb` what the result keeps, `peak_mb` the process's largest resident size.
 */
import { execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { type TensorSpec, writeSharded } from '../unit/checkpoints.ts';
import type { Row } from './bench.ts';

export async function bench(): Promise<Row[]> {
  const folder = await mkdtemp(path.join(tmpdir(), 'bondwise-open-model-'));
  try {
    const large = await writeSharded(path.join(folder, '70b'), { architectures: ['LlamaForCausalLM'], model_type: 'llama' }, llama70b(), 30);
    const many = await writeSharded(path.join(folder, '500k'), { model_type: 'many_experts' }, experts(500_000), 160);
    return [
      await measure('70B shape, 30 shards', 'model', large, 9),
      await measure('500,000 tensors: index and headers', 'checkpoint', many, 3),
      await measure('500,000 tensors: whole tree', 'model', many, 3),
    ];
  } finally {
    await rm(folder, { recursive: true });
  }
}

async function measure(name: string, what: 'model' | 'checkpoint', folder: string, repeats: number): Promise<Row> {
  const script = path.join(import.meta.dirname, 'open-model/measure.ts');
  const { stdout } = await promisify(execFile)(process.execPath, ['--expose-gc', script, what, folder, String(repeats)]);
  const figures: unknown = JSON.parse(stdout);
  if (typeof figures !== 'object' || figures === null) throw new Error(`${script} printed ${stdout}`);
  return { checkpoint: name, ...figures };
}

function llama70b(): TensorSpec[] {
  const hidden = 8192;
  const shapes: readonly (readonly [string, readonly number[]])[] = [
    ['input_layernorm', [hidden]],
    ['mlp.down_proj', [hidden, 28672]],
    ['mlp.gate_proj', [28672, hidden]],
    ['mlp.up_proj', [28672, hidden]],
    ['post_attention_layernorm', [hidden]],
    ['self_attn.k_proj', [1024, hidden]],
    ['self_attn.o_proj', [hidden, hidden]],
    ['self_attn.q_proj', [hidden, hidden]],
    ['self_attn.v_proj', [1024, hidden]],
  ];
  const tensors: TensorSpec[] = [{ name: 'model.embed_tokens.weight', dtype: 'BF16', shape: [128256, hidden] }];
  for (let block = 0; block < 80; block++) {
    for (const [name, shape] of shapes) tensors.push({ name: `model.layers.${block}.${name}.weight`, dtype: 'BF16', shape });
  }
  tensors.push({ name: 'model.norm.weight', dtype: 'BF16', shape: [hidden] }, { name: 'lm_head.weight', dtype: 'BF16', shape: [128256, hidden] });
  return tensors;
}

/** A mixture of very many experts, so that names and shapes are those of a real model. */
function experts(count: number): TensorSpec[] {
  const tensors: TensorSpec[] = [];
  for (let i = 0; tensors.length < count; i++) {
    const expert = `model.layers.${Math.floor(i / 2048)}.mlp.experts.${i % 2048}`;
    tensors.push(
      { name: `${expert}.down_proj.weight`, dtype: 'BF16', shape: [7168, 2048] },
      { name: `${expert}.gate_proj.weight`, dtype: 'BF16', shape: [2048, 7168] },
      { name: `${expert}.up_proj.weight`, dtype: 'BF16', shape: [2048, 7168] },
    );
  }
  return tensors.slice(0, count);
}
