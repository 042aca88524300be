/** The tensors of a safetensors file: a list with search, and what is in the chosen one. */
import type { HostMessage, TensorFile, TensorInfo } from '../../extension/protocol/types.ts';
import { formatBytes, formatCount, formatParameters } from '../../extension/runs/format.ts';
import { Channel, type Host } from '../ui/channel.ts';
import { h } from '../ui/dom.ts';
import { t } from '../ui/l10n.ts';
import { TensorList } from '../ui/list.ts';
import { chooseRows, nextSort, type Sort } from '../ui/listRows.ts';
import { onThemeChange } from '../ui/theme.ts';
import { busy } from '../ui/toolkit.ts';
import { begin } from '../ui/ready.ts';
import { Details, type Known } from './details.ts';
import { COLUMNS } from './rows.ts';
import '../ui/base.css';
import '../ui/list.css';
import './style.css';

declare function acquireVsCodeApi(): Host;

/** Multiply-adds of a decomposition that is done unasked: some seconds. */
const QUICK = 2e10;
/** Milliseconds without a further choice before values are read: the arrow keys pass over many. */
const PAUSE = 200;
const host = acquireVsCodeApi();
const root = document.getElementById('root') ?? document.body;
const known = new Map<string, Known>();
let file: TensorFile | undefined;
let search = '';
let sort: Sort = { column: undefined, descending: false };
let chosen: TensorInfo | undefined;
let pause: ReturnType<typeof setTimeout> | undefined;

const channel = new Channel(host, take);
const list = new TensorList<TensorInfo>(COLUMNS, {
  sort: column => {
    sort = nextSort(sort, column);
    show();
  },
  choose,
});
const details = new Details(() => askSpectrum());
const count = h('span', { class: 'note', role: 'status' });
const box = document.createElement('input');
box.type = 'search';
box.placeholder = t('Search names');
box.setAttribute('aria-label', t('Search names'));
box.addEventListener('input', () => {
  search = box.value;
  show();
});

function take(message: Exclude<HostMessage, { type: 'reply' }>): void {
  if (message.type === 'tensors') {
    const name = message.choose ?? chosen?.name ?? stored();
    file = message.file;
    known.clear();
    draw();
    const again = file.tensors.find(tensor => tensor.name === name);
    if (again) {
      choose(again);
      list.reveal(again);
    }
  } else if (message.type === 'tensorFacts') {
    const before = known.get(message.name);
    if (before) {
      known.set(message.name, {
        ...before,
        ...(message.facts && { facts: message.facts }),
        ...(message.spectrum && { spectrum: message.spectrum }),
        ...(message.problem != null && (before.facts ? { spectrumProblem: message.problem } : { problem: message.problem })),
      });
      if (message.facts && message.name === chosen?.name && before.spectrum === undefined) {
        askSpectrum();
      }
      showDetails();
    }
  }
}

function draw(): void {
  if (!file) {
    return;
  }
  const { name, bytes, header_bytes, tensors, metadata } = file;
  const values = tensors.reduce((sum, { parameters }) => sum + parameters, 0);
  const facts = [t('{0} tensors', formatCount(tensors.length)), t('{0} values', formatParameters(values)), formatBytes(bytes), t('header {0}', formatBytes(header_bytes))];
  root.replaceChildren(
    h('header', {}, h('h1', {}, name), h('p', { class: 'lead' }, facts.join(' · ')), ...metadataOf(metadata), h('div', { class: 'bar' }, box, count)),
    h('main', {}, list.element, details.element),
  );
  show();
  showDetails();
}

function metadataOf(metadata: Readonly<Record<string, string>>): readonly HTMLElement[] {
  const pairs = Object.entries(metadata);
  if (pairs.length === 0) {
    return [];
  }
  const rows = pairs.map(([key, value]) => h('div', {}, h('dt', {}, key), h('dd', {}, value)));
  return [h('details', pairs.length < 4 ? { open: '' } : {}, h('summary', {}, t('Metadata of the file ({0})', pairs.length)), h('dl', { class: 'metadata' }, ...rows))];
}

function show(): void {
  if (file) {
    const rows = chooseRows(file.tensors, COLUMNS, search, sort);
    list.show(rows, sort, chosen?.name);
    count.textContent = search.trim() === '' ? '' : t('{0} of {1}', formatCount(rows.length), formatCount(file.tensors.length));
  }
}

function choose(tensor: TensorInfo): void {
  chosen = tensor;
  host.setState({ name: tensor.name });
  show();
  showDetails();
  clearTimeout(pause);
  pause = setTimeout(() => {
    if (!known.has(tensor.name)) {
      forgetUnfinished();
      known.set(tensor.name, { facts: undefined, spectrum: tensor.shape.length > 1 && isQuick(tensor) ? undefined : null, problem: undefined, spectrumProblem: undefined });
      ask('tensorFacts', tensor.name);
    }
  }, PAUSE);
}

/** What was begun of others ends now: the extension reads one tensor at a time. */
function forgetUnfinished(): void {
  for (const [name, { facts, spectrum, problem }] of known) {
    if (name !== chosen?.name && problem === undefined && (!facts || spectrum === undefined)) {
      known.delete(name);
    }
  }
}

function askSpectrum(): void {
  const now = chosen && known.get(chosen.name);
  if (chosen && now) {
    forgetUnfinished();
    known.set(chosen.name, { ...now, spectrum: undefined });
    ask('tensorSpectrum', chosen.name);
    showDetails();
  }
}

function ask(method: 'tensorFacts' | 'tensorSpectrum', name: string): void {
  channel.request(method, name).catch((error: unknown) => take({ type: 'tensorFacts', name, problem: error instanceof Error ? error.message : String(error) }));
}

function isQuick({ shape, parameters }: TensorInfo): boolean {
  const rows = shape[0] ?? 1;
  const side = Math.min(rows, parameters / Math.max(rows, 1));
  return parameters * side + 10 * side ** 3 < QUICK;
}

function showDetails(): void {
  details.show(chosen, chosen && known.get(chosen.name));
}

function stored(): string | undefined {
  const state = host.getState();
  return typeof state === 'object' && state !== null && 'name' in state && typeof state.name === 'string' ? state.name : undefined;
}

onThemeChange(showDetails);
begin(root, () => busy(t('Reading the header…')), () => channel.request('ready'));
