/** Profiles as the engine writes them. Shared by the unit and the host suite. */
import type { Cell, Curve, ProfileLayer, Sensitivity } from '../../extension/protocol/types.ts';

const COLUMNS = { 'self_attn.q_proj': [16, 16], 'self_attn.o_proj': [16, 16], 'mlp.up_proj': [48, 16], 'mlp.down_proj': [16, 48] } as const;
const CHI = [1, 2, 4, 8, 16];

/** `model.layers.BLOCK.COLUMN` for each block and column. */
export function profileLayers(blocks: number): ProfileLayer[] {
  return Array.from({ length: blocks }, (_, block) =>
    Object.entries(COLUMNS).map(([column, [out, inFeatures]]): ProfileLayer => ({
      name: `model.layers.${block}.${column}`,
      block,
      column,
      group: column.startsWith('mlp') ? 'mlp' : 'attention',
      shape: [out, inFeatures],
      parameters: out * inFeatures,
      bytes: out * inFeatures * 2,
      out_modes: [1, out],
      in_modes: [inFeatures, 1],
    })),
  ).flat();
}

/** The predicted losses fall from `loss` at χ 1 by half with each doubling of χ. */
export function curve({ name, shape: [out = 1, inFeatures = 1] }: ProfileLayer, loss: number): Curve {
  const losses = CHI.map((_, i) => loss / 2 ** i);
  return {
    layer: name,
    chi: CHI,
    parameters: CHI.map(chi => chi * (out + inFeatures - chi)),
    error: CHI.map(chi => 1 - chi / 16),
    plain: losses,
    input: losses.map(value => value / 2),
    fisher: losses.map(value => value / 4),
  };
}

/** A measured cell whose loss is `rise` above a baseline of 3 nats. */
export function cell({ name, shape: [out = 1, inFeatures = 1], parameters }: ProfileLayer, chi: number, rise: number, error = rise / 10): Cell {
  const kept = chi * (out + inFeatures - chi);
  return { layer: name, chi, bond_dims: [chi], keep: kept / parameters, parameters: kept, figures: { loss: { value: 3 + rise, error } }, sequences: 8, seconds: 0.5 };
}

export function sensitivity(over: Partial<Sensitivity> = {}): Sensitivity {
  return {
    version: 1,
    engine: '0.1.0',
    created: '2026-01-01T00:00:00Z',
    model: { path: 'base', name: 'base', fingerprint: 'f'.repeat(64) },
    sites: 'low-rank',
    method: 'plain',
    data: 'builtin',
    text: 'a'.repeat(64),
    length: 512,
    sequences: 8,
    seed: 0,
    metric: 'perplexity',
    sizes: [0.5, 0.3],
    sizes_are: 'keep',
    baseline: { loss: 3, perplexity: Math.exp(3) },
    layers: profileLayers(2),
    curves: [],
    cells: [],
    correlation: null,
    complete: false,
    ...over,
  };
}
