/** Profiles that look like real ones, for the tests and the benchmark of the heatmap: made by a rule, always the same. */
import { bondDimsForChi, bondDimsForKeep, layerModes, maxBondDims, parameterCount } from '../../extension/plan/choices.ts';
import type { Cell, Curve, PlanResult, ProfileLayer, Sensitivity } from '../../extension/protocol/types.ts';

export interface ProfileShape {
  readonly blocks: number;
  readonly columns: readonly { readonly column: string; readonly group: ProfileLayer['group']; readonly out: number; readonly in: number }[];
  readonly sizes: readonly number[];
  readonly sizes_are: Sensitivity['sizes_are'];
  /** Bond dimensions of a curve. */
  readonly points: number;
}

/** Blocks and layers of SmolLM2-135M. */
export const SMOL: ProfileShape = {
  blocks: 30,
  columns: [
    { column: 'self_attn.q_proj', group: 'attention', out: 576, in: 576 },
    { column: 'self_attn.k_proj', group: 'attention', out: 192, in: 576 },
    { column: 'self_attn.v_proj', group: 'attention', out: 192, in: 576 },
    { column: 'self_attn.o_proj', group: 'attention', out: 576, in: 576 },
    { column: 'mlp.gate_proj', group: 'mlp', out: 1536, in: 576 },
    { column: 'mlp.up_proj', group: 'mlp', out: 1536, in: 576 },
    { column: 'mlp.down_proj', group: 'mlp', out: 576, in: 1536 },
  ],
  sizes: [0.75, 0.5, 0.3, 0.1],
  sizes_are: 'keep',
  points: 24,
};

/** What the issue asks to be drawn in 50 ms: 100 blocks, 10 layers, 16 bond dimensions. */
export const LARGE: ProfileShape = {
  blocks: 100,
  columns: Array.from({ length: 10 }, (_, i) => ({ column: `${i < 4 ? 'attn' : 'mlp'}.part${i}`, group: i < 4 ? 'attention' : 'mlp', out: 4096, in: 4096 })),
  sizes: Array.from({ length: 16 }, (_, i) => 128 * (i + 1)),
  sizes_are: 'chi',
  points: 16,
};

const BASELINE = 2.735;

/** @param measured part of the cells that are there: from the front of what a run would measure, coarse to fine. */
export function makeProfile(shape: ProfileShape, measured = 1): Sensitivity {
  const layers = Array.from({ length: shape.blocks }, (_, block) =>
    shape.columns.map(({ column, group, out, in: width }): ProfileLayer => {
      const modes = layerModes(out, width, 'low-rank');
      return {
        name: `model.layers.${block}.${column}`,
        block,
        column,
        group,
        shape: [out, width],
        parameters: out * width,
        bytes: 2 * out * width,
        out_modes: [...modes.out],
        in_modes: [...modes.in],
      };
    }),
  ).flat();
  const cells = shape.sizes.flatMap(size => layers.map(layer => makeCell(layer, shape, size)));
  return {
    version: 1,
    engine: '0.1.0',
    created: '2026-11-23T12:00:00Z',
    model: { path: '../SmolLM2-135M-Instruct', name: 'SmolLM2-135M-Instruct', fingerprint: 'a'.repeat(64) },
    sites: 'low-rank',
    method: 'plain',
    data: 'builtin',
    text: 'b'.repeat(64),
    length: 512,
    sequences: 8,
    seed: 0,
    metric: 'perplexity',
    sizes: [...shape.sizes],
    sizes_are: shape.sizes_are,
    baseline: { loss: BASELINE },
    layers,
    curves: layers.map(layer => makeCurve(layer, shape.points)),
    cells: cells.slice(0, Math.round(measured * cells.length)),
    complete: measured === 1,
  };
}

export function makeCurve(layer: ProfileLayer, points: number): Curve {
  const modes = { out: layer.out_modes, in: layer.in_modes };
  const rank = Math.max(...maxBondDims(modes));
  const chi = [...new Set(Array.from({ length: points }, (_, i) => Math.round(rank ** ((i + 1) / points))))];
  const plain = chi.map(bond => lossOf(layer, bond, rank));
  return {
    layer: layer.name,
    chi,
    parameters: chi.map(bond => parameterCount(modes, bondDimsForChi(modes, bond))),
    error: chi.map(bond => Math.sqrt(Math.max(0, 1 - bond / rank))),
    plain,
    input: plain.map(value => value * 0.6),
    fisher: plain.map(value => value * 0.35),
  };
}

export function makeCell(layer: ProfileLayer, { sizes_are }: Pick<ProfileShape, 'sizes_are'>, size: number): Cell {
  const modes = { out: layer.out_modes, in: layer.in_modes };
  const bond_dims = [...(sizes_are === 'keep' ? bondDimsForKeep(modes, size, layer.parameters) : bondDimsForChi(modes, size))];
  const chi = Math.max(...bond_dims);
  const parameters = parameterCount(modes, bond_dims);
  const rank = Math.max(...maxBondDims(modes));
  const loss = lossOf(layer, chi, rank) * Math.exp(0.6 * (noise(`${layer.name} ${chi}`) - 0.5)) + 0.004 * (noise(`${chi} ${layer.name}`) - 0.5);
  const error = 0.003 + 0.06 * loss;
  return {
    layer: layer.name,
    chi,
    bond_dims,
    keep: parameters / layer.parameters,
    parameters,
    figures: { loss: { value: BASELINE + loss, error }, kl: { value: Math.max(1e-5, loss * 0.9), error }, agreement: { value: Math.exp(-0.7 * Math.max(0, loss)), error: error / 3 } },
    sequences: 2 + Math.round(6 * noise(layer.name)),
    seconds: 1.8,
  };
}

export function makePlan(profile: Sensitivity): PlanResult {
  const dense = 134_515_008;
  const point = (share: number) => {
    const loss = 0.002 * Math.exp((1 - share) * 9);
    return { parameters: Math.round(dense * share), bytes: Math.round(2 * dense * share), loss, loss_error: loss * 0.3, perplexity: Math.exp(BASELINE + loss) };
  };
  const chosen = point(0.8);
  return {
    output: 'SmolLM2-135M-Instruct.bondwise.json',
    parameters: chosen.parameters,
    original_parameters: dense,
    bytes: chosen.bytes,
    original_bytes: 2 * dense,
    predicted: chosen,
    layers: Object.fromEntries(profile.layers.filter(({ block, column }) => block > 1 && !column.endsWith('down_proj')).map(({ name }) => [name, 0.25 + 0.6 * noise(`plan ${name}`)])),
    exchange: Array.from({ length: 15 }, (_, i) => point(1 - 0.04 * i)),
  };
}

/** The first and the last blocks bend the most, the MLP more than the attention. */
function lossOf(layer: ProfileLayer, chi: number, rank: number): number {
  const edge = layer.block === 0 ? 40 : 1 + 6 * Math.exp(-layer.block) + (layer.block % 29 === 0 ? 8 : 0);
  const kind = layer.group === 'mlp' ? 1 : layer.column.includes('v_proj') ? 0.6 : 0.08;
  return 0.25 * edge * kind * (0.5 + noise(layer.name)) * Math.exp(-6 * (chi / rank)) * (1 - chi / rank);
}

/** A number in [0, 1) that a text always gives: FNV-1a. */
function noise(text: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) {
    hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193) >>> 0;
  }
  return ((hash ^ (hash >>> 15)) >>> 0) / 2 ** 32;
}
