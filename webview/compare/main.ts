/** The compare panel: asks for its data, draws it, and keeps only the folder and the sorting as state. */
import type { CompareData } from '../../extension/protocol/types.ts';
import { Channel, type Host } from '../ui/channel.ts';
import { Asker } from '../ui/asker.ts';
import { t } from '../ui/l10n.ts';
import { busy } from '../ui/toolkit.ts';
import { begin } from '../ui/ready.ts';
import { COLUMNS, type Sort } from './figures.ts';
import '../ui/base.css';
import '../ui/samples.css';
import './style.css';
import { compareView } from './view.ts';

declare function acquireVsCodeApi(): Host;

const host = acquireVsCodeApi();
const root = document.getElementById('root') ?? document.body;
let sort = storedSort(host.getState());
let data: CompareData | undefined;

const channel = new Channel(host, message => {
  if (message.type !== 'compare') {
    return;
  }
  data = message.data;
  host.setState({ folder: data.compressed.path, sort });
  draw();
});

const asker = new Asker((method, argument) => channel.request(method, argument));

function draw(): void {
  if (!data) {
    return;
  }
  const view = compareView(data, sort, {
    revealLayer: name => asker.ask('revealLayer', name),
    openFolder: folder => asker.ask('openFolder', folder),
    showMap: () => asker.ask('showMap'),
    sort: next => {
      sort = next;
      host.setState({ folder: data?.compressed.path, sort });
      draw();
      root.querySelector<HTMLElement>(`[data-sort="${sort.column}"]`)?.focus();
    },
  });
  root.replaceChildren(asker.problem, view);
}

function storedSort(state: unknown): Sort {
  const stored = typeof state === 'object' && state !== null && 'sort' in state ? state.sort : undefined;
  if (typeof stored === 'object' && stored !== null && 'column' in stored && 'descending' in stored) {
    const { column, descending } = stored;
    if (COLUMNS.some(({ id }) => id === column) && typeof column === 'string' && typeof descending === 'boolean') {
      return { column, descending };
    }
  }
  return { column: 'name', descending: false };
}

begin(root, () => busy(t('Reading the figures…')), () => channel.request('ready'));
