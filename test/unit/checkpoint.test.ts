import { chmod, mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  CheckpointError,
  type CheckpointProblem,
  classifyFolder,
  findModels,
  type Layer,
  type Model,
  openModel,
  problemOf,
  reasonOf,
  toInspection,
} from '../../extension/checkpoint/index.ts';
import { isInspection } from '../../extension/protocol/validate.js';
import { isDtype } from '../../extension/safetensors-ts/src/index.ts';
import layouts from '../fixtures/layouts.json' with { type: 'json' };
import { headerOf, type Shapes, specs, type TensorSpec, writeModel, writeSharded, writeTensors } from './checkpoints.ts';

interface Layout {
  readonly name: string;
  readonly config: Readonly<Record<string, unknown>>;
  readonly tensors: Readonly<Record<string, unknown>>;
  readonly linear?: Readonly<Record<string, readonly number[]>>;
  readonly layers: Readonly<Record<string, readonly unknown[]>>;
}

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'checkpoint-'));
});
afterAll(async () => {
  await rm(folder, { recursive: true });
});

const llama: Shapes = {
  'model.embed_tokens.weight': [64, 32],
  'model.layers.0.input_layernorm.weight': [32],
  'model.layers.0.self_attn.q_proj.weight': [32, 32],
  'model.layers.0.mlp.down_proj.weight': [32, 48],
  'model.layers.1.input_layernorm.weight': [32],
  'model.layers.1.self_attn.q_proj.weight': [32, 32],
  'model.layers.1.mlp.down_proj.weight': [32, 48],
  'model.norm.weight': [32],
  'lm_head.weight': [64, 32],
};
const llamaConfig = { architectures: ['LlamaForCausalLM'], model_type: 'llama' };

function listOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}

function layersOf(model: Model): Layer[] {
  return model.blocks.flatMap((block) => block.layers);
}

async function problem(opening: Promise<Model>): Promise<CheckpointProblem> {
  const error: unknown = await opening.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (error === undefined) throw new Error('the model opened');
  return problemOf(error, folder);
}

describe('the layers of real layouts, as the engine sees them', () => {
  const all: readonly Layout[] = layouts.layouts;
  test.each(all.map((layout) => [layout.name, layout] as const))('%s', async (name, layout) => {
    const tensors: TensorSpec[] = Object.entries(layout.tensors).map(([tensor, description]) => {
      const [dtype, shape] = listOf(description);
      if (typeof dtype !== 'string' || !isDtype(dtype)) throw new Error(`${tensor} is no tensor`);
      return { name: tensor, dtype, shape: listOf(shape).map(Number) };
    });
    const root = path.join(folder, 'layouts', name.replace(/\W+/g, '-'));
    await mkdir(root, { recursive: true });
    await writeTensors(path.join(root, 'model.safetensors'), tensors);
    await writeFile(path.join(root, 'config.json'), JSON.stringify(layout.config));
    const model = await openModel(root);
    const layers = new Map(layersOf(model).map((layer) => [layer.name, layer]));
    expect(Object.fromEntries([...layers.values()].map((layer) => [layer.name, [layer.group, layer.shape, ...(layer.scheme ? [layer.scheme] : [])]]))).toEqual(
      layout.layers,
    );
    for (const [linear, shape] of Object.entries(layout.linear ?? {})) {
      if (!/(?:router|shared_expert_gate)$/.test(linear)) expect(layers.get(linear)?.shape).toEqual(shape);
    }
    const inspection = toInspection(model);
    expect(isInspection(inspection)).toBe(true);
    const counted = [...inspection.blocks.flatMap((block) => block.layers), ...inspection.other];
    expect(counted.reduce((sum, { bytes }) => sum + bytes, 0)).toBe(model.bytes);
    expect(counted.reduce((sum, { parameters }) => sum + parameters, 0)).toBe(model.parameters);
  });
});

describe('a model', () => {
  test('has blocks in order of depth, layers by group and name, and the rest in groups', async () => {
    const shapes: Record<string, readonly number[]> = {};
    for (let block = 0; block < 12; block++) {
      for (const part of ['mlp.experts.10.w1', 'mlp.experts.9.w1', 'self_attn.q_proj', 'self_attn.k_proj', 'odd']) {
        shapes[`model.layers.${block}.${part}.weight`] = [4, 8];
      }
      shapes[`model.layers.${block}.mlp.gate.weight`] = [2, 8];
      shapes[`model.layers.${block}.input_layernorm.weight`] = [8];
    }
    const model = await openModel(await writeModel(path.join(folder, 'order'), llamaConfig, { 'lm_head.weight': [9, 8], 'model.norm.weight': [8], 'model.embed_tokens.weight': [9, 8], ...shapes, 'extra.thing': [3] }));
    expect(model.container).toBe('model.layers');
    expect(model.blocks.map(({ index }) => index)).toEqual(Array.from({ length: 12 }, (_, i) => i));
    expect(model.blocks[10]?.layers.map(({ name }) => name.replace('model.layers.10.', ''))).toEqual([
      'self_attn.k_proj',
      'self_attn.q_proj',
      'mlp.experts.9.w1',
      'mlp.experts.10.w1',
      'odd',
    ]);
    expect(model.blocks[10]?.other.map(({ name }) => name)).toEqual(['model.layers.10.input_layernorm.weight', 'model.layers.10.mlp.gate.weight']);
    expect(model.blocks[10]).toMatchObject({ parameters: 184, bytes: 368 });
    expect(model.other.map(({ name, tensors, parameters }) => [name, tensors.length, parameters])).toEqual([
      ['embedding', 1, 72],
      ['norm', 1, 8],
      ['head', 1, 72],
      ['other', 1, 3],
    ]);
    expect(model).toMatchObject({ name: 'order', architecture: 'LlamaForCausalLM', modelType: 'llama', parameters: 2363, bytes: 4726 });
    expect(model.dtypes).toEqual([{ dtype: 'BF16', parameters: 2363, bytes: 4726 }]);
  });

  test('has as blocks the numbered container that holds the most', async () => {
    const shapes: Record<string, readonly number[]> = {};
    for (let block = 0; block < 4; block++) shapes[`vision_tower.blocks.${block}.attn.proj.weight`] = [8, 8];
    for (let block = 0; block < 2; block++) shapes[`language_model.model.layers.${block}.experts.0.up_proj.weight`] = [32, 8];
    const model = await openModel(await writeModel(path.join(folder, 'vision'), {}, shapes));
    expect(model.container).toBe('language_model.model.layers');
    expect(model.blocks).toHaveLength(2);
    expect(model.other.map(({ name, tensors }) => [name, tensors.length])).toEqual([['other', 4]]);
  });

  test('without blocks or config.json is shown all the same', async () => {
    const model = await openModel(await writeModel(path.join(folder, 'bare'), undefined, { 'embedding.weight': [4, 4], '0.weight': [2, 2] }));
    expect(model).toMatchObject({ container: null, blocks: [], architecture: null, modelType: null });
    expect(model.problems.map(({ message }) => message)).toEqual([`${model.folder} has no config.json.`]);
  });

  test('in shards is the same as in one file', async () => {
    const one = await openModel(await writeModel(path.join(folder, 'same/a'), llamaConfig, llama));
    const many = await openModel(await writeSharded(path.join(folder, 'same/b/a'), llamaConfig, specs(llama), 3));
    expect({ ...many, folder: '' }).toEqual({ ...one, folder: '' });
  });

  test('of many blocks that differ is put together block by block', async () => {
    const model = await openModel(
      await writeModel(path.join(folder, 'hybrid'), {}, {
        'h.0.attn.q_proj.weight': [4, 4],
        'h.1.mlp.up_proj.weight': [8, 4],
        'h.2.attn.q_proj.weight': [4, 4],
        'h.2.attn.q_proj.bias': [4],
        'h.10.mlp.up_proj.weight': [8, 4],
      }),
    );
    expect(model.blocks.map(({ index, layers }) => [index, layers.map(({ name, parameters }) => [name, parameters])])).toEqual([
      [0, [['h.0.attn.q_proj', 16]]],
      [1, [['h.1.mlp.up_proj', 32]]],
      [2, [['h.2.attn.q_proj', 20]]],
      [10, [['h.10.mlp.up_proj', 32]]],
    ]);
  });

  test('turns Conv1D weights only where every bias that can tell says so', async () => {
    const mixed = await openModel(
      await writeModel(path.join(folder, 'mixed'), {}, {
        'h.0.mlp.a.weight': [8, 24],
        'h.0.mlp.a.bias': [24],
        'h.0.mlp.b.weight': [16, 8],
        'h.0.mlp.b.bias': [16],
        'h.0.mlp.c.weight': [8, 8],
        'h.0.mlp.c.bias': [8],
      }),
    );
    expect(layersOf(mixed).map(({ shape, transposed }) => [shape, transposed ?? false])).toEqual([
      [[24, 8], true],
      [[16, 8], false],
      [[8, 8], false],
    ]);
  });
});

describe('a compressed or quantized model', () => {
  const mpo = {
    version: 2,
    base_model_type: 'llama',
    base_architecture: 'LlamaForCausalLM',
    layers: {
      'model.layers.0.mlp.down_proj': { out_modes: [1, 32], in_modes: [48, 1], bond_dims: [5], out_features: 32, in_features: 48, bias: true },
    },
  };
  const config = { architectures: ['MPOForCausalLM'], model_type: 'bondwise_mpo', auto_map: { AutoModelForCausalLM: 'modeling_mpo.MPOForCausalLM' }, mpo };
  const cores: Shapes = {
    'model.layers.0.mlp.down_proj.cores.1.weight': [27, 5],
    'model.layers.0.mlp.down_proj.cores.0.weight': [5, 48],
    'model.layers.0.mlp.down_proj.bias': [32],
    'model.layers.0.self_attn.q_proj.weight': [32, 32],
  };

  test('shows an MPO as one layer with its bonds and what it keeps', async () => {
    const stored: Shapes = { ...cores, 'model.layers.0.mlp.down_proj.order_1': ['I32', [32]] };
    const model = await openModel(await writeModel(path.join(folder, 'mpo'), config, stored));
    expect(layersOf(model)).toEqual([
      { name: 'model.layers.0.self_attn.q_proj', group: 'attention', shape: [32, 32], dtype: 'BF16', parameters: 1024, bytes: 2048, state: 'dense' },
      {
        name: 'model.layers.0.mlp.down_proj',
        group: 'mlp',
        shape: [32, 48],
        dtype: 'BF16',
        parameters: 407,
        bytes: 2 * 407 + 4 * 32,
        state: 'mpo',
        bondDims: [5],
        keep: 375 / 1536,
      },
    ]);
    expect(model).toMatchObject({ architecture: 'LlamaForCausalLM', modelType: 'bondwise_mpo', needsCode: false });
    expect(toInspection(model).blocks[0]?.layers[1]).toMatchObject({ state: 'mpo', bond_dims: [5], scheme: null });
  });

  test('refuses cores that config.json does not describe', async () => {
    const root = await writeModel(path.join(folder, 'mpo-undescribed'), { ...config, mpo: { ...mpo, layers: {} } }, cores);
    const { file, message } = await problem(openModel(root));
    expect(file).toBe(path.join(root, 'config.json'));
    expect(message).toContain('does not describe model.layers.0.mlp.down_proj, which is stored as 2 cores');
    const fewer = Object.entries(cores).filter(([name]) => !name.includes('cores.1'));
    const torn = await writeModel(path.join(folder, 'mpo-torn'), config, Object.fromEntries(fewer));
    expect((await problem(openModel(torn))).message).toContain('has the cores 0, but');
  });

  test('refuses an mpo section of another version', async () => {
    const root = await writeModel(path.join(folder, 'mpo-later'), { ...config, mpo: { ...mpo, version: 3 } }, cores);
    expect((await problem(openModel(root))).remedy).toContain('Update Bondwise');
    const earlier = await writeModel(path.join(folder, 'mpo-earlier'), { ...config, mpo: { ...mpo, version: 1 } }, cores);
    expect((await problem(openModel(earlier))).remedy).toBe('Compress the model again from the original.');
  });

  test('reads the shape of a 4-bit weight from what bitsandbytes keeps beside it', async () => {
    const state = Buffer.from(JSON.stringify({ quant_type: 'nf4', blocksize: 64, dtype: 'bfloat16', shape: [48, 32] }));
    const name = 'model.layers.0.mlp.up_proj';
    const tensors = specs({
      [`${name}.weight`]: ['U8', [768, 1]],
      [`${name}.weight.absmax`]: ['U8', [24]],
      [`${name}.weight.quant_map`]: ['F32', [16]],
      [`${name}.weight.quant_state.bitsandbytes__nf4`]: ['U8', [state.length]],
    });
    const { head, dataBytes } = headerOf(tensors);
    const data = Buffer.alloc(dataBytes);
    state.copy(data, dataBytes - state.length);
    const root = path.join(folder, 'nf4');
    await mkdir(root);
    await writeFile(path.join(root, 'model.safetensors'), Buffer.concat([head, data]));
    await writeFile(path.join(root, 'config.json'), JSON.stringify({ quantization_config: { quant_method: 'bitsandbytes', load_in_4bit: true } }));
    const model = await openModel(root);
    expect(layersOf(model)).toEqual([
      { name, group: 'mlp', shape: [48, 32], dtype: 'U8', parameters: 1536, bytes: dataBytes, state: 'quantized', scheme: 'nf4' },
    ]);
  });
});

describe('folders', () => {
  test('with models are found, each real folder once, none that is hidden or being written', async () => {
    const root = path.join(folder, 'workspace');
    for (const place of ['a', 'deep/er/b', 'a/checkpoint-5', '.a.partial', 'node_modules/pkg', 'c', 'd/.git/e']) {
      await writeModel(path.join(root, place), llamaConfig, { a: [1] });
    }
    await rm(path.join(root, 'c/config.json'));
    await symlink(root, path.join(root, 'deep/loop'));
    await symlink(path.join(root, 'a'), path.join(root, 'z-link'));
    const found: string[] = [];
    for await (const model of findModels(root)) found.push(path.relative(root, model));
    expect(found).toEqual(['a', 'a/checkpoint-5', 'deep/er/b']);
    const stopped = findModels(root, AbortSignal.abort());
    await expect(stopped.next()).rejects.toThrow('aborted');
  });

  test.each<[string, Readonly<Record<string, string>>, Readonly<Record<string, unknown>>, string, string]>([
    ['pickled weights', { 'pytorch_model.bin': '', 'config.json': '{}' }, { weights: 'pickle', config: true }, 'pickled weights (pytorch_model.bin)', 'save_pretrained'],
    ['a GGUF file', { 'model.gguf': '' }, { weights: 'gguf', config: false }, 'a GGUF file', 'gguf_file'],
    ['nothing', { 'readme.md': '' }, { weights: 'none' }, 'no .safetensors file', 'config.json'],
    ['an adapter', { 'adapter_model.safetensors': '', 'adapter_config.json': '{}' }, { weights: 'safetensors' }, 'holds an adapter', 'merge_and_unload'],
    ['a config.json that is no JSON', { 'model.safetensors': '', 'config.json': '{' }, { weights: 'safetensors' }, 'config.json is not JSON', 'again'],
    ['a config.json that is a list', { 'model.safetensors': '', 'config.json': '[]' }, {}, 'config.json is not a JSON object', 'again'],
  ])('with %s are refused with what to do', async (name, files, kind, message, remedy) => {
    const root = path.join(folder, 'refused', name.replace(/\W+/g, '-'));
    await mkdir(root, { recursive: true });
    for (const [file, content] of Object.entries(files)) await writeFile(path.join(root, file), content);
    const classified = await classifyFolder(root);
    expect(classified).toMatchObject(kind);
    expect(classified.error).toBeInstanceOf(CheckpointError);
    const told = await problem(openModel(root));
    expect(told.message).toContain(message);
    expect(told.message).toContain(root);
    expect(told.remedy).toContain(remedy);
  });

  test('that bring their own code are flagged', async () => {
    const foreign = { ...llamaConfig, auto_map: { AutoModelForCausalLM: 'modeling_x.X' } };
    const root = await writeModel(path.join(folder, 'code'), foreign, llama);
    expect((await openModel(root)).needsCode).toBe(true);
    expect((await classifyFolder(root)).needsCode).toBe(true);
    const posing = { model_type: 'bondwise_mpo', auto_map: { AutoConfig: 'modeling_mpo.A', AutoModel: ['else/where--modeling_mpo.B', null] } };
    expect((await openModel(await writeModel(path.join(folder, 'posing'), posing, llama))).needsCode).toBe(true);
    const section = { version: 2, base_model_type: 'foreign', base_architecture: 'X', layers: {} };
    const ours = { model_type: 'bondwise_mpo', auto_map: { AutoConfig: 'modeling_mpo.MPOConfig' }, mpo: { ...section, base_auto_map: { AutoConfig: 'x.Y' } } };
    expect((await openModel(await writeModel(path.join(folder, 'carrying'), ours, llama))).needsCode).toBe(true);
    const theirs = { ...ours, mpo: { ...section, base_auto_map: null } };
    expect((await openModel(await writeModel(path.join(folder, 'in-transformers'), theirs, llama))).needsCode).toBe(false);
    expect((await openModel(await writeModel(path.join(folder, 'plain'), llamaConfig, llama))).needsCode).toBe(false);
  });

  test('that are broken give file, message and remedy', async () => {
    const root = await writeSharded(path.join(folder, 'broken'), llamaConfig, specs(llama), 3);
    await rm(path.join(root, 'model-00002-of-00003.safetensors'));
    const told = await problem(openModel(root));
    expect(told.file).toBe(path.join(root, 'model.safetensors.index.json'));
    expect(told.message).toContain('"model-00002-of-00003.safetensors"');
    expect(told.remedy).toContain('Download');
    expect((await problem(openModel(path.join(folder, 'absent')))).message).toContain('absent cannot be read');
    expect(problemOf('odd', folder)).toMatchObject({ file: folder, message: `${folder} cannot be read: odd` });
  });

  test('say the reason first in a row that names the folder already', () => {
    const file = path.join(folder, 'model.safetensors');
    expect(reasonOf({ file, message: `${file} is truncated: 12 bytes.` }, folder)).toBe('is truncated: 12 bytes (model.safetensors)');
    expect(reasonOf({ file, message: `${file}: the header is not JSON.` }, folder)).toBe('the header is not JSON (model.safetensors)');
    expect(reasonOf({ file, message: `${folder} holds pickled weights.` }, folder)).toBe('holds pickled weights');
    expect(reasonOf({ file, message: 'Nothing is there.' }, folder)).toBe('Nothing is there.');
  });

  test('whose index and shards disagree open with the problem told', async () => {
    const root = await writeSharded(path.join(folder, 'disagree'), llamaConfig, specs(llama), 2);
    await writeTensors(path.join(root, 'model-00002-of-00002.safetensors'), specs({ 'model.norm.weight': [32], 'lm_head.weight': [64, 32] }));
    const model = await openModel(root);
    expect(model.problems).toHaveLength(1);
    expect(model.problems[0]?.message).toContain('not in the shard that the index names');
  });

  test.skipIf(process.getuid?.() === 0)('that may not be read say so', async () => {
    const root = await writeModel(path.join(folder, 'locked'), llamaConfig, llama);
    await chmod(path.join(root, 'model.safetensors'), 0);
    expect((await problem(openModel(root))).message).toContain('no permission');
  });

  test('with a lineage file show it, and ignore a broken one', async () => {
    const root = await writeModel(path.join(folder, 'lineage'), llamaConfig, llama);
    await writeFile(path.join(root, 'bondwise.json'), '{"version": 1}');
    expect((await openModel(root)).lineage).toBeUndefined();
    const result = { kind: 'tensorize', output: '.', parameters: 1, original_parameters: 2, bytes: 2, original_bytes: 4, layers: [], logits_difference: 0, seconds: 1 };
    const lineage = { version: 1, engine: '0.1.0', created: '2025-01-01T00:00:00Z', base: { path: '../a', name: 'a', fingerprint: 'f' }, request: {}, result };
    await writeFile(path.join(root, 'bondwise.json'), JSON.stringify(lineage));
    expect((await openModel(root)).lineage).toEqual(lineage);
  });
});
