/** What was measured of original, compressed and healed model, side by side. */
import type { Evaluation, RunView } from '../../extension/protocol/types.ts';
import { formatNumber, formatPercent } from '../../extension/runs/format.ts';
import { formatMeasured } from '../../extension/views/measured.ts';
import { h } from '../ui/dom.ts';
import { t } from '../ui/l10n.ts';

const ROLES = [
  ['original', t('Original')],
  ['compressed', t('Compressed')],
  ['healed', t('Healed')],
] as const;

const ROWS: readonly { readonly name: string; readonly hint: string; readonly text: (evaluation: Evaluation) => string }[] = [
  { name: t('Perplexity'), hint: t('On the evaluation text, ± standard error. Lower is better.'), text: ({ perplexity, standard_error }) => formatMeasured(perplexity, standard_error) },
  { name: t('KL divergence'), hint: t('From the original’s predictions, nats per token. 0 is equal.'), text: ({ kl }) => (typeof kl === 'number' ? t('{0} nats', formatNumber(kl)) : '–') },
  { name: t('Same first choice'), hint: t('Tokens where the original ranks the same next token first.'), text: ({ agreement }) => (typeof agreement === 'number' ? formatPercent(agreement) : '–') },
  { name: t('Tokens per second'), hint: t('Forward pass over full sequences, on the device of the run.'), text: ({ tokens_per_second }) => formatNumber(tokens_per_second) },
];

export class MeasuredFigures {
  readonly element = h('section', { 'aria-labelledby': 'measured', hidden: '' });
  #shown = '';

  show({ evaluations = {} }: RunView): void {
    const measured = ROLES.flatMap(([role, name]) => (evaluations[role] ? [{ name, evaluation: evaluations[role] }] : []));
    const shown = JSON.stringify(measured);
    if (shown === this.#shown) {
      return;
    }
    this.#shown = shown;
    const data = measured[0]?.evaluation.data;
    this.element.hidden = data === undefined;
    this.element.replaceChildren(
      h('h2', { id: 'measured' }, t('Measured')),
      h('p', { class: 'note' }, t('On {0}, the same for all.', data === 'builtin' ? t('the built-in text') : (data ?? ''))),
      h(
        'div',
        { class: 'scroll', tabindex: '0', role: 'group', 'aria-labelledby': 'measured' },
        h(
          'table',
          {},
          h('thead', {}, h('tr', {}, h('td', {}), ...measured.map(({ name }) => h('th', { scope: 'col' }, name)))),
          h('tbody', {}, ...ROWS.map(({ name, hint, text }) => h('tr', {}, h('th', { scope: 'row', title: hint }, name), ...measured.map(({ evaluation }) => h('td', {}, text(evaluation)))))),
        ),
      ),
    );
  }
}
