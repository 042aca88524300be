/** What the colours of the map say, and what each layer's is. No DOM here. */
import type { MapLayer } from '../../extension/protocol/types.ts';
import { formatNumber, formatPercent } from '../../extension/runs/format.ts';
import { t } from '../ui/l10n.ts';
import { colourAt, makeScale, type Rgb, type Scale, ticks } from '../ui/scale.ts';
import { bitsOf, isOriginal, type Pair } from './pair.ts';

export const COLOURS = ['sensitivity', 'precision', 'change'] as const;
export type ColourBy = (typeof COLOURS)[number];

export interface Key {
  readonly colour: Rgb;
  readonly text: string;
}

export interface Mark {
  readonly position: number;
  readonly text: string;
}

export interface Colours {
  readonly by: ColourBy;
  /** With the unit. */
  readonly title: string;
  /** Undefined where it is not known. */
  readonly of: (layer: MapLayer) => Rgb | undefined;
  /** Of a continuous scale, from its low end to its high one. */
  readonly marks: readonly Mark[];
  /** Of colours that stand for one thing each. */
  readonly keys: readonly Key[];
  /** What is not known and why, and where else the figures are from. */
  readonly notes: readonly string[];
}

/** Above this rise of the loss, in nats, a model knows nothing. */
const DEAD = 10;
/** Bits at the two ends of the scale: below two bits and above 32 there is nothing. */
const BITS = [1.5, 32] as const;
const TICKS = 4;
/** Layers that are as they were stand back behind those that are not. */
const UNCHANGED: Readonly<Record<'dark' | 'light', Rgb>> = { dark: [74, 74, 74], light: [214, 214, 214] };

export function nameOf(by: ColourBy): string {
  return { sensitivity: t('Sensitivity'), precision: t('Precision'), change: t('Change') }[by];
}

export function hintOf(by: ColourBy): string {
  return {
    sensitivity: t('What the newest profile says: how much the loss rises when this layer alone is compressed'),
    precision: t('Bits of a stored number, scales and indices counted'),
    change: t('Relative error against the original’s layer, as bondwise.json in the folder tells it'),
  }[by];
}

/** What tells most: sensitivities where a profile has them, changes of a compressed model, else the precision. */
export function firstChoice({ sides }: Pair): ColourBy {
  if (sides.some(({ model }) => model.layers.some(({ sensitivity }) => sensitivity))) {
    return 'sensitivity';
  }
  return sides.some(({ model }) => model.layers.some(({ change }) => typeof change === 'number' && change > 0)) ? 'change' : 'precision';
}

export function coloursOf(by: ColourBy, pair: Pair, dark: boolean): Colours {
  switch (by) {
    case 'sensitivity':
      return sensitivity(pair, dark);
    case 'precision':
      return precision(pair, dark);
    case 'change':
      return change(pair, dark);
  }
}

function layersOf({ sides }: Pair): readonly MapLayer[] {
  return sides.flatMap(({ model }) => model.layers);
}

function continuous(by: ColourBy, title: string, scale: Scale, value: (layer: MapLayer) => number | undefined, format: (value: number) => string, dark: boolean, isKnown: boolean, notes: readonly string[]): Colours {
  const same = (x: number) => x;
  const found = isKnown ? ticks(scale, TICKS, same, same) : [];
  return {
    by,
    title,
    of: layer => {
      const own = value(layer);
      return own === undefined ? undefined : colourAt(scale.position(own), dark);
    },
    marks: found.map(({ position, value: at }, index) => ({ position, text: `${scale.cut && index === found.length - 1 ? '≥ ' : ''}${format(at)}` })),
    keys: [],
    notes,
  };
}

function sensitivity(pair: Pair, dark: boolean): Colours {
  const borrowed = borrow(pair);
  const value = (layer: MapLayer) => (layer.sensitivity ?? borrowed.get(layer.name))?.rise;
  const rises = layersOf(pair).flatMap(layer => value(layer) ?? []);
  const without = pair.sides.filter(({ model }) => !model.layers.some(layer => value(layer) !== undefined));
  const [first, second] = pair.sides;
  const lent = second && borrowed.size > 0 ? (first.model.profile == null ? first : second) : undefined;
  return continuous('sensitivity', t('Rise of the loss, nats per token, with about 30% of the layer kept'), makeScale('log', rises, { decades: 4, most: DEAD }), value, formatNumber, dark, rises.length > 0, [
    ...(lent ? [t('{0} has no profile of its own: its layers have the colours of {1}.', lent.model.name, (lent === first ? second : first)?.model.name ?? '')] : []),
    ...(without.length > 0 ? [t('There is no sensitivity profile of {0} in this workspace. “Profile Sensitivity…” makes one.', without.map(({ model }) => model.name).join(', '))] : []),
  ]);
}

/** Figures of the model beside for a model that has none: they are of the same layers, as they were before. */
export function borrow({ sides: [first, second] }: Pair): ReadonlyMap<string, NonNullable<MapLayer['sensitivity']>> {
  const found = new Map<string, NonNullable<MapLayer['sensitivity']>>();
  if (!second || (first.model.profile == null) === (second.model.profile == null)) {
    return found;
  }
  const [from, to] = first.model.profile == null ? [second, first] : [first, second];
  for (const spot of from.grid.spots()) {
    const [known, layer] = [from.grid.at(spot)?.sensitivity, to.grid.at(spot)];
    if (known && layer) {
      found.set(layer.name, known);
    }
  }
  return found;
}

function precision(pair: Pair, dark: boolean): Colours {
  const kinds = new Map<string, { bytes: number; parameters: number }>();
  for (const layer of layersOf(pair)) {
    const sum = kinds.get(precisionOf(layer)) ?? { bytes: 0, parameters: 0 };
    kinds.set(precisionOf(layer), { bytes: sum.bytes + layer.bytes, parameters: sum.parameters + layer.parameters });
  }
  const colour = (kind: string) => colourAt(Math.log(bitsOf(kinds.get(kind) ?? { bytes: 2, parameters: 1 }) / BITS[0]) / Math.log(BITS[1] / BITS[0]), dark);
  const ordered = [...kinds].sort(([, a], [, b]) => bitsOf(b) - bitsOf(a));
  return {
    by: 'precision',
    title: t('Precision, bits of a stored number'),
    of: layer => colour(precisionOf(layer)),
    marks: [],
    keys: ordered.map(([kind, sizes]) => ({ colour: colour(kind), text: t('{0}: {1} bits', kind, formatNumber(bitsOf(sizes))) })),
    notes: [],
  };
}

/** `BF16`, `nf4`, `cores in BF16`, `cores in 4-bit`. */
export function precisionOf({ state, scheme, dtype }: Pick<MapLayer, 'state' | 'scheme' | 'dtype'>): string {
  const stored = scheme ?? dtype;
  return state === 'mpo' ? t('cores in {0}', stored) : stored;
}

function change(pair: Pair, dark: boolean): Colours {
  const layers = layersOf(pair);
  const errors = layers.flatMap(layer => layer.change ?? []);
  const unknown = layers.filter(({ changed, change: error }) => changed && changed.length > 0 && typeof error !== 'number');
  const original = pair.sides.find(side => isOriginal(pair, side));
  const isReference = new Set(original?.model.layers);
  const untold = pair.sides.filter(side => side !== original && side.model.layers.every(({ changed }) => changed == null));
  const unchanged = UNCHANGED[dark ? 'dark' : 'light'];
  const scaled = continuous('change', t('Relative error ‖W − Ŵ‖ / ‖W‖ against the original’s layer'), makeScale('linear', errors, { decades: 4, most: 1 }), layer => layer.change ?? undefined, formatPercent, dark, errors.some(error => error > 0), [
    ...untold.map(({ model }) =>
      model.base == null
        ? t('Nothing tells what {0} was made from. “Compare Tensors With…” computes how far it is from another model.', model.name)
        : t('Healing has trained layers of {0} besides the cores, so how far they are from the original is not told. “Compare Tensors With…” computes it.', model.name),
    ),
    ...(unknown.length > 0 ? [t('{0} layers were changed again after that was measured. “Compare Tensors With…” computes how far they are now.', unknown.length)] : []),
  ]);
  const isUnchanged = (layer: MapLayer) => isReference.has(layer) || layer.change === 0;
  return {
    ...scaled,
    of: layer => (isUnchanged(layer) ? unchanged : scaled.of(layer)),
    keys: layers.some(isUnchanged) ? [{ colour: unchanged, text: t('unchanged') }] : [],
  };
}
