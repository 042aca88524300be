/** What is told of a layer, in words. No DOM here. */
import type { MapLayer, MapModel } from '../../extension/protocol/types.ts';
import { formatBytes, formatNumber, formatParameters, formatPercent } from '../../extension/runs/format.ts';
import { formatMeasured, formatShare } from '../../extension/views/measured.ts';
import type { Column } from '../ui/layerRows.ts';
import { t } from '../ui/l10n.ts';
import { precisionOf } from './colours.ts';
import { bitsOf, keptOf, type Pair, type PlacedPair } from './pair.ts';

export type Fact = readonly [name: string, text: string];

/** @param borrowed what a profile says of this layer in the model beside. */
export function factsOf(layer: MapLayer, borrowed: MapLayer['sensitivity']): readonly Fact[] {
  const { shape, parameters, original_parameters, bytes, state, bond_dims = [] } = layer;
  const isWhole = parameters === original_parameters;
  return [
    [t('Shape'), shape.join(' × ')],
    ...(state === 'mpo' ? [[t('Bond dimensions'), `χ ${bond_dims.join(' · ')}`] as const] : []),
    [t('Parameters'), isWhole ? formatParameters(parameters) : t('{0} of {1}, {2} kept', formatParameters(parameters), formatParameters(original_parameters), formatShare(keptOf(layer)))],
    [t('Stored as'), t('{0}, {1} bits a number, {2}', precisionOf(layer), formatNumber(bitsOf(layer)), formatBytes(bytes))],
    [t('Sensitivity'), sensitivityText(layer.sensitivity ?? borrowed)],
    [t('Change'), changeText(layer)],
  ];
}

/** The same in a line, for a screen reader. */
export function lineOf(layer: MapLayer, facts: readonly Fact[]): string {
  return [t('Block {0}, {1}', layer.block, layer.column), ...facts.map(([name, text]) => `${name} ${text}`)].join('; ');
}

export function sensitivityText(found: MapLayer['sensitivity']): string {
  if (!found) {
    return t('not profiled');
  }
  const nats = found.measured ? formatMeasured(found.rise, found.error ?? 0) : formatNumber(found.rise);
  return found.measured ? t('+{0} nats at {1} kept, measured', nats, formatPercent(found.keep)) : t('+{0} nats at {1} kept, predicted', nats, formatPercent(found.keep));
}

export function changeText({ changed, change, change_before }: Pick<MapLayer, 'changed' | 'change' | 'change_before'>): string {
  if (!changed) {
    return t('not told');
  }
  if (changed.length === 0) {
    return t('none: as in the original');
  }
  const steps = changed.map(step => ({ tensorized: t('tensorized'), healed: t('healed'), quantized: t('quantized') })[step]).join(', ');
  if (typeof change === 'number') {
    return t('{0}: relative error {1}', steps, formatPercent(change));
  }
  return typeof change_before === 'number' ? t('{0}: relative error {1} before the last step, not known after it', steps, formatPercent(change_before)) : t('{0}: relative error not known', steps);
}

export function modelText({ parameters, bytes, base, healed }: MapModel): string {
  return [t('{0} parameters', formatParameters(parameters)), formatBytes(bytes), ...(base == null ? [] : [healed ? t('made from {0}, healed', base) : t('made from {0}', base)])].join(' · ');
}

/** Of the table: what the map draws, as numbers; of two models each figure beside the other's. */
export function columnsOf({ sides }: Pair, borrowed: ReadonlyMap<string, NonNullable<MapLayer['sensitivity']>>): readonly Column<PlacedPair>[] {
  const known = (layer: MapLayer) => layer.sensitivity ?? borrowed.get(layer.name);
  const figures: readonly Figure[] = [
    { id: 'parameters', name: t('Parameters'), hint: t('Stored numbers of the layer, bias included.'), text: layer => formatParameters(layer.parameters), order: layer => layer.parameters },
    { id: 'kept', name: t('Kept'), hint: t('Parameters, of the dense layer’s.'), text: layer => formatShare(keptOf(layer)), order: keptOf },
    { id: 'stored', name: t('Stored as'), hint: t('Data type or scheme, and bits of a stored number.'), text: layer => t('{0}, {1} bits', precisionOf(layer), formatNumber(bitsOf(layer))), order: bitsOf },
    { id: 'sensitivity', name: t('Sensitivity'), hint: t('Rise of the mean loss, nats per token, at the size that is named.'), text: layer => sensitivityText(known(layer)), order: layer => known(layer)?.rise },
    { id: 'change', name: t('Change'), hint: t('‖W − Ŵ‖ / ‖W‖, Frobenius norm, against the original’s layer.'), text: changeText, order: layer => layer.change ?? undefined },
  ];
  const columns = figures.flatMap(({ id, name, hint, text, order }) =>
    sides.map(({ model }, side): Column<PlacedPair> => ({
      id: `${id} ${side}`,
      name: sides.length === 1 ? name : side === 0 ? t('{0}, 1st', name) : t('{0}, 2nd', name),
      hint: sides.length === 1 ? hint : `${model.name}: ${hint}`,
      text: ({ of }) => (of[side] ? text(of[side]) : '–'),
      order: ({ of }) => (of[side] ? order(of[side]) : undefined),
    })),
  );
  return [{ id: 'layer', name: t('Layer'), hint: t('Module path. Press to select it.'), text: ({ layer }) => layer.name, order: ({ layer }) => layer.name }, ...columns];
}

interface Figure {
  readonly id: string;
  readonly name: string;
  readonly hint: string;
  readonly text: (layer: MapLayer) => string;
  readonly order: (layer: MapLayer) => number | string | undefined;
}
