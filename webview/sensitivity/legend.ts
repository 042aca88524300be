/** What the colours and marks mean. */
import { h } from '../ui/dom.ts';
import { t } from '../ui/l10n.ts';
import { ramp } from '../ui/ramp.ts';
import type { Theme } from '../ui/theme.ts';
import { baselineText, marks, titleOf } from './marks.ts';
import type { Metric } from './metrics.ts';
import { colourAt, css, type Scale } from '../ui/scale.ts';

export interface LegendInput {
  readonly metric: Metric;
  readonly scale: Scale;
  readonly baseline: number | undefined;
  readonly theme: Theme;
  readonly missing: boolean;
  readonly noise: boolean;
  readonly plan: string | undefined;
}

export function legend({ metric, scale, baseline, theme, missing, noise, plan }: LegendInput): readonly Node[] {
  const keys = h(
    'ul',
    { class: 'keys' },
    ...(noise ? [h('li', {}, h('i', { class: 'dot', 'aria-hidden': 'true' }), t('within 2 standard errors of the original'))] : []),
    ...(missing ? [h('li', {}, h('i', { class: 'stripes', 'aria-hidden': 'true' }), metric.curve ? t('not predicted') : t('not measured yet'))] : []),
    ...(plan === undefined ? [] : [h('li', {}, h('i', { class: 'percent', 'aria-hidden': 'true' }, '60%'), t('kept by {0}; no number: stays dense', plan))]),
  );
  if (baseline === undefined) {
    return [h('p', { class: 'note' }, t('No figures yet: colours come with the original model’s value.')), keys];
  }
  const all = marks(metric, scale, baseline);
  const zero = h('i', { class: 'swatch', 'aria-hidden': 'true' });
  zero.style.background = css(colourAt(0, theme.dark));
  return [
    h('div', { class: 'legend-title' }, titleOf(metric)),
    h(
      'div',
      { class: 'scale', role: 'img', 'aria-label': t('Colour scale, {0}: {1}; {2}', scale.kind, baselineText(metric, baseline), all.map(({ text }) => text).join(', ')) },
      h('div', { class: 'baseline' }, zero, h('span', {}, baselineText(metric, baseline))),
      ramp(theme.dark, all),
    ),
    keys,
  ];
}
