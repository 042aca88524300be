/** A block's tensors, put together by module: a weight with its bias, scales or cores. */
import type { Pace, TensorEntry } from 'safetensors-ts';
import { isNoLayer, layerGroup, naturalKey } from './names.ts';
import { byKey, sortPaced } from './sort.ts';
import type { LayerGroup } from './types.ts';

/** What a tensor is to its module, told by its name. `bare` is a parameter that is a module of its own, as fused experts are. */
export type Role = 'weight' | 'bias' | 'core' | 'coreHelper' | 'order' | 'bits' | 'qweight' | 'packed' | 'blocks' | 'scales' | 'helper' | 'bare';

/** A module relative to its block, and which of the block's tensors it has: the same in most blocks. */
export interface ModuleForm {
  readonly path: string;
  readonly group: LayerGroup;
  /** Norm, embedding or router gate. */
  readonly noLayer: boolean;
  /** Of the order within a block: by group, then by name. */
  readonly key: string;
  /** Of its tensors among the block's. */
  readonly positions: readonly number[];
  readonly roles: readonly Role[];
  /** Of the cores: which site. */
  readonly sites: readonly number[];
}

/** What a block is made of: tensor names relative to it, and the modules in order. */
export interface BlockForm {
  readonly names: readonly string[];
  readonly modules: readonly ModuleForm[];
}

const CORE = /^(.+?)\.cores\.(\d+)\.(.+)$/;
/** What is stored in few bits: see `PackedLinear` in modeling_mpo.py. */
const PACKED = /^(.+)\.(?:(?:matrix|left|right)\.(?:codes|scales|levels|order)|correction\.[01]\.weight)$/;
const ORDER = /^(.+)\.order_\d+$/;
const HELPER = /^(.+?)\.(?:weight[._]|input_scale$|SCB$|qzeros$|scales$|g_idx$)/;
const GROUPS: readonly LayerGroup[] = ['attention', 'mlp', 'other'];
const SUFFIXES: readonly (readonly [string, Role])[] = [
  ['.weight', 'weight'],
  ['.bias', 'bias'],
  ['_bias', 'bias'],
  ['.qweight', 'qweight'],
  ['.weight_packed', 'packed'],
  ['_blocks', 'blocks'],
  ['_scales', 'scales'],
];

/** Whether a block has the same tensor names, in the same order, as one whose form is known. `prefix` is the block's path with its dot. */
export function hasForm(entries: readonly TensorEntry[], prefix: string, { names }: BlockForm): boolean {
  const fits = (name: string, inner: string | undefined): boolean =>
    inner !== undefined && name.length === prefix.length + inner.length && name.endsWith(inner);
  return entries.length === names.length && entries.every((entry, i) => fits(entry.name, names[i]));
}

export async function formOf(entries: readonly TensorEntry[], prefix: string, pace: Pace, signal?: AbortSignal): Promise<BlockForm> {
  const names: string[] = [];
  const modules = new Map<string, { readonly positions: number[]; readonly roles: Role[]; readonly sites: number[] }>();
  for (const [position, entry] of entries.entries()) {
    const inner = entry.name.slice(prefix.length);
    names.push(inner);
    const [path, role, site = 0] = split(inner);
    let module = modules.get(path);
    if (!module) modules.set(path, (module = { positions: [], roles: [], sites: [] }));
    module.positions.push(position);
    module.roles.push(role);
    module.sites.push(site);
    if ((position & 63) === 0 && pace.due()) await pace.rest(signal);
  }
  const forms: ModuleForm[] = [];
  for (const [path, parts] of modules) {
    const group = layerGroup(path);
    forms.push({ path, group, noLayer: isNoLayer(path), key: `${GROUPS.indexOf(group)}${naturalKey(path)}`, ...parts });
    if ((forms.length & 63) === 0 && pace.due()) await pace.rest(signal);
  }
  return { names, modules: await sortPaced(forms, byKey, pace, signal) };
}

function split(inner: string): [path: string, role: Role, site?: number] {
  const [, cored, site, rest] = CORE.exec(inner) ?? [];
  if (cored !== undefined) return [cored, rest === 'weight' ? 'core' : 'coreHelper', Number(site)];
  const [, packed] = PACKED.exec(inner) ?? [];
  if (packed !== undefined) return [packed, 'bits'];
  const [, ordered] = ORDER.exec(inner) ?? [];
  if (ordered !== undefined) return [ordered, 'order'];
  for (const [suffix, role] of SUFFIXES) {
    if (inner.length > suffix.length && inner.endsWith(suffix)) return [inner.slice(0, -suffix.length), role];
  }
  const [, helped] = HELPER.exec(inner) ?? [];
  return helped === undefined ? [inner, 'bare'] : [helped, 'helper'];
}
