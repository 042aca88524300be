/** What can be done with layers of the map: the tree's own commands, and only those that serve such layers. No DOM here. */
import type { MapLayer, WebviewRequest } from '../../extension/protocol/types.ts';
import { t } from '../ui/l10n.ts';

interface Item {
  readonly label: string;
  readonly act: () => void;
  readonly first?: boolean;
}

export function mapMenu(layers: readonly Pick<MapLayer, 'state' | 'shape'>[], act: (method: WebviewRequest['method']) => void): readonly Item[] {
  const item = (label: string, method: WebviewRequest['method'], first = false) => ({ label, act: () => act(method), ...(first && { first }) });
  const isOne = layers.length === 1;
  return [
    item(t('Reveal in Tree'), 'revealLayer'),
    item(t('Show Sensitivity'), 'showSensitivity'),
    ...(isOne ? [item(t('Show Tensors'), 'showTensors')] : []),
    ...(layers.some(({ state, shape }) => state === 'dense' && shape.length === 2)
      ? [item(t('Tensorize…'), 'tensorizeLayers', true), item(t('Profile Sensitivity…'), 'profileLayers')]
      : []),
    ...(layers.some(({ state }) => state !== 'quantized') ? [item(t('Quantize…'), 'quantizeLayers')] : []),
    item(isOne ? t('Copy Name') : t('Copy Names'), 'copyText', true),
  ];
}
