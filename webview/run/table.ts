/** The curves as a table: for who cannot see the charts, or wants to copy. */
import { formatCount } from '../../extension/runs/format.ts';
import type { RunView } from '../../extension/protocol/types.ts';
import type { History } from '../../extension/runs/healFold.ts';
import { h } from '../ui/dom.ts';
import { t } from '../ui/l10n.ts';
import { COLUMNS, rowsOf } from './rows.ts';

export function tableView(run: RunView, history: History): HTMLElement {
  return h(
    'div',
    { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': t('Steps and validations') },
    h(
      'table',
      {},
      h('caption', {}, t('Steps and validations, the latest first')),
      h('thead', {}, h('tr', {}, ...COLUMNS.map(name => h('th', { scope: 'col' }, name)))),
      h('tbody', {}, ...rowsOf(run, history).map(({ step, cells }) => h('tr', {}, h('th', { scope: 'row' }, formatCount(step)), ...cells.map(text => h('td', {}, text))))),
    ),
  );
}
