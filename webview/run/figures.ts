/** What was measured of original, compressed and healed model, side by side. */
import type { Evaluation, RunView } from '../../extension/protocol/types.ts';
import { formatNumber, formatPercent } from '../../extension/runs/format.ts';
import { formatMeasured } from '../../extension/views/measured.ts';
import { h } from '../ui/dom.ts';

const ROLES = [
  ['original', 'Original'],
  ['compressed', 'Compressed'],
  ['healed', 'Healed'],
] as const;

const ROWS: readonly { readonly name: string; readonly hint: string; readonly text: (evaluation: Evaluation) => string }[] = [
  { name: 'Perplexity', hint: 'On the evaluation text, ± standard error. Lower is better.', text: ({ perplexity, standard_error }) => formatMeasured(perplexity, standard_error) },
  { name: 'KL divergence', hint: 'From the original’s predictions, nats per token. 0 is equal.', text: ({ kl }) => (typeof kl === 'number' ? `${formatNumber(kl)} nats` : '–') },
  { name: 'Same first choice', hint: 'Tokens where the original ranks the same next token first.', text: ({ agreement }) => (typeof agreement === 'number' ? formatPercent(agreement) : '–') },
  { name: 'Tokens per second', hint: 'Forward pass over full sequences, on the device of the run.', text: ({ tokens_per_second }) => formatNumber(tokens_per_second) },
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
      h('h2', { id: 'measured' }, 'Measured'),
      h('p', { class: 'note' }, `On ${data === 'builtin' ? 'the built-in text' : (data ?? '')}, the same for all.`),
      h(
        'div',
        { class: 'scroll', tabindex: '0', role: 'group', 'aria-labelledby': 'measured' },
        h(
          'table',
          {},
          h('thead', {}, h('tr', {}, h('th', { scope: 'col' }), ...measured.map(({ name }) => h('th', { scope: 'col' }, name)))),
          h('tbody', {}, ...ROWS.map(({ name, hint, text }) => h('tr', {}, h('th', { scope: 'row', title: hint }, name), ...measured.map(({ evaluation }) => h('td', {}, text(evaluation)))))),
        ),
      ),
    );
  }
}
