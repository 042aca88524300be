/** What widths, fills and colours mean. */
import { h } from '../ui/dom.ts';
import { t } from '../ui/l10n.ts';
import { ramp } from '../ui/ramp.ts';
import { css } from '../ui/scale.ts';
import type { Theme } from '../ui/theme.ts';
import type { Colours } from './colours.ts';

export function legend(colours: Colours, { dark }: Theme, isMissing: boolean): readonly Node[] {
  const keys = colours.keys.map(({ colour, text }) => {
    const swatch = h('i', { class: 'swatch', 'aria-hidden': 'true' });
    swatch.style.background = css(colour);
    return h('li', {}, swatch, text);
  });
  return [
    h('div', { class: 'legend-title' }, colours.title),
    ...(colours.marks.length > 0
      ? [h('div', { class: 'scale', role: 'img', 'aria-label': t('Colour scale: {0}', colours.marks.map(({ text }) => text).join(', ')) }, ramp(dark, colours.marks))]
      : []),
    h(
      'ul',
      { class: 'keys' },
      ...keys,
      ...(isMissing ? [h('li', {}, h('i', { class: 'stripes', 'aria-hidden': 'true' }), t('not known'))] : []),
      h('li', {}, h('i', { class: 'part-filled', 'aria-hidden': 'true' }), t('width: parameters of the original layer; filled: the part that is kept')),
    ),
    ...colours.notes.map(note => h('p', { class: 'note' }, note)),
  ];
}
