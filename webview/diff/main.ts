/** How the tensors of two models differ: asks, shows what has come, and keeps only which models and what was searched. */
import type { HostMessage, TensorChange } from '../../extension/protocol/types.ts';
import { formatBytes, formatCount } from '../../extension/runs/format.ts';
import { Channel, type Host } from '../ui/channel.ts';
import { Asker } from '../ui/asker.ts';
import { choice } from '../ui/controls.ts';
import { h } from '../ui/dom.ts';
import { t } from '../ui/l10n.ts';
import { TensorList } from '../ui/list.ts';
import { chooseRows, nextSort, type Sort } from '../ui/listRows.ts';
import { fieldsOf } from '../ui/stored.ts';
import { busy, button } from '../ui/toolkit.ts';
import { begin } from '../ui/ready.ts';
import { columnsOf, type Kind, kindName, kindOf, KINDS, percent, remarkOf } from './rows.ts';
import '../ui/base.css';
import '../ui/controls.css';
import '../ui/list.css';
import './style.css';

declare function acquireVsCodeApi(): Host;

type Told = Extract<HostMessage, { type: 'diff' }>;

const host = acquireVsCodeApi();
const root = document.getElementById('root') ?? document.body;
const stored = fieldsOf(host.getState());
let told: Told | undefined;
let tensors: TensorChange[] = [];
let most = 0;
let search = typeof stored.search === 'string' ? stored.search : '';
let kind: Kind = KINDS.find(known => known === stored.kind) ?? 'all';
let sort: Sort = { column: undefined, descending: false };
let chosen: TensorChange | undefined;

const columns = columnsOf(() => most);
const channel = new Channel(host, take);
const asker = new Asker((method, argument) => channel.request(method, argument));
const title = h('h1', {});
const lead = h('p', { class: 'lead', role: 'status' });
const problem = h('p', { role: 'alert', class: 'problem' });
const progress = h('progress', { 'aria-label': t('Progress') });
const compute = button(t('Compare'), () => asker.ask('computeDiff'), 'primary');
const cancel = button(t('Cancel'), () => asker.ask('cancelDiff'));
const count = h('span', { class: 'note', role: 'status' });
const remark = h('p', { class: 'remark note', role: 'status' });
const list = new TensorList<TensorChange>(columns, {
  sort: column => {
    sort = nextSort(sort, column);
    show();
  },
  choose: tensor => {
    chosen = tensor;
    show();
  },
});
const shown = choice(t('Show'), id => {
  kind = KINDS.find(known => known === id) ?? 'all';
  save();
  show();
});
const box = document.createElement('input');
box.type = 'search';
box.placeholder = t('Search names');
box.setAttribute('aria-label', t('Search names'));
box.value = search;
box.addEventListener('input', () => {
  search = box.value;
  save();
  show();
});

function take(message: Exclude<HostMessage, { type: 'reply' }>): void {
  if (message.type !== 'diff') {
    return;
  }
  const isFirst = !told;
  told = message;
  tensors = message.whole ? [...(message.added ?? [])] : [...tensors, ...(message.added ?? [])];
  most = tensors.reduce((largest, { found, relative }) => (found === 'changed' ? Math.max(largest, relative ?? 0) : largest), 0);
  save();
  if (isFirst) {
    root.replaceChildren(
      h('header', {}, title, lead, h('div', { class: 'working' }, progress, compute, cancel), asker.problem, problem, h('div', { class: 'bar' }, shown.element, box, count)),
      h('main', {}, list.element, remark),
    );
  }
  showState(message);
  show();
}

function showState({ model, other, state, done = 0, total = 0, relative, problem: reason }: Told): void {
  const isWorking = state === 'computing';
  title.textContent = t('{0} → {1}', model.name, other.name);
  title.title = `${model.hint} → ${other.hint}`;
  lead.textContent = leadText(state, done, total, relative);
  progress.hidden = cancel.hidden = !isWorking;
  compute.hidden = isWorking || state === 'done';
  if (total > 0) {
    progress.setAttribute('max', String(total));
    progress.setAttribute('value', String(done));
  } else {
    progress.removeAttribute('value');
  }
  problem.textContent = reason ?? '';
}

function leadText(state: Told['state'], done: number, total: number, relative: number | null | undefined): string {
  const changed = tensors.filter(({ found }) => found === 'changed').length;
  switch (state) {
    case 'waiting':
      return t('Both models are read once, tensor by tensor. Nothing is written.');
    case 'computing':
      return total === 0 ? t('Starting…') : t('{0} of {1} read, {2} of {3} tensors changed so far', formatBytes(done), formatBytes(total), changed, tensors.length);
    case 'cancelled':
      return t('Cancelled after {0} tensors.', tensors.length);
    case 'failed':
      return '';
    case 'done':
      return typeof relative === 'number' && changed > 0
        ? t('{0} of {1} tensors changed, all together by {2} of the norm. Changes are relative to {3}.', changed, tensors.length, percent(relative), told?.model.name ?? '')
        : changed > 0
          ? t('{0} of {1} tensors changed.', changed, tensors.length)
          : t('No tensor changed, of {0}.', tensors.length);
  }
}

function show(): void {
  const counts = new Map<Kind, number>(KINDS.map(one => [one, one === 'all' ? tensors.length : 0]));
  for (const tensor of tensors) {
    counts.set(kindOf(tensor), (counts.get(kindOf(tensor)) ?? 0) + 1);
  }
  const offered = KINDS.filter(one => one === 'all' || one === kind || (counts.get(one) ?? 0) > 0);
  shown.show(offered.map(id => ({ id, name: kindName(id, counts.get(id) ?? 0) })), kind);
  const rows = chooseRows(kind === 'all' ? tensors : tensors.filter(tensor => kindOf(tensor) === kind), columns, search, sort);
  list.show(rows, sort, chosen?.name);
  count.textContent = search.trim() === '' ? '' : t('{0} of {1}', formatCount(rows.length), formatCount(tensors.length));
  const said = chosen && remarkOf(chosen);
  remark.textContent = said === undefined ? '' : `${chosen?.name ?? ''}: ${said}`;
  remark.hidden = said === undefined;
}

function save(): void {
  host.setState({ pair: told ? `${told.model.path}\n${told.other.path}` : stored.pair, search, kind });
}

begin(root, () => busy(t('Opening both models…')), () => channel.request('ready'));
