/** The curves as numbers: for who cannot see the charts, or wants to copy. */
import type { RunView } from '../../extension/protocol/types.ts';
import { formatBytes, formatNumber } from '../../extension/runs/format.ts';
import { HealFold, type History } from '../../extension/runs/healFold.ts';
import { perplexityOf } from '../../extension/views/healText.ts';
import { klOf, optionsOf } from './facts.ts';
import { h } from '../ui/dom.ts';

/** More rows nobody reads; each then stands for several steps. */
const ROWS = 200;

export interface Row {
  readonly step: number;
  readonly cells: readonly string[];
}

export const COLUMNS = ['Step', 'Validation loss, nats', 'Perplexity', 'Training loss, nats', 'KL, nats', 'Learning rate', 'Tokens/s', 'Memory', 'Gradient norm'] as const;

/** The latest first: it is what changes. */
export function rowsOf(run: RunView, history: History): readonly Row[] {
  const thinned = new HealFold(ROWS);
  history.steps.forEach(step => thinned.add(step));
  const options = optionsOf(run);
  const trained = (thinned.value?.steps ?? []).map(step => ({
    step: step.step,
    cells: ['', '', formatNumber(step.cross_entropy), formatMaybe(klOf(step, options)), step.learning_rate.toExponential(1), formatNumber(step.tokens_per_second), Object.values(step.memory).map(formatBytes).join(', '), formatNumber(step.gradient)],
  }));
  const validated = history.validations.map(({ step, loss }) => ({ step, cells: [formatNumber(loss), perplexityOf(loss), '', '', '', '', '', ''] }));
  return [...trained, ...validated].sort((a, b) => b.step - a.step);
}

export function tableView(run: RunView, history: History): HTMLElement {
  return h(
    'div',
    { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': 'Steps and validations' },
    h(
      'table',
      {},
      h('caption', {}, 'Steps and validations, the latest first'),
      h('thead', {}, h('tr', {}, ...COLUMNS.map(name => h('th', { scope: 'col' }, name)))),
      h('tbody', {}, ...rowsOf(run, history).map(({ step, cells }) => h('tr', {}, h('th', { scope: 'row' }, step.toLocaleString('en')), ...cells.map(text => h('td', {}, text))))),
    ),
  );
}

function formatMaybe(value: number | undefined): string {
  return value === undefined ? '' : formatNumber(value);
}
