/** The report panel: asks for its benchmark, and passes on what comes. */
import { Channel, type Host } from '../ui/channel.ts';
import { begin } from '../ui/ready.ts';
import '../ui/base.css';
import '../ui/controls.css';
import '../ui/popups.css';
import '../ui/charts.css';
import './style.css';
import { ReportView } from './view.ts';

declare function acquireVsCodeApi(): Host;

const host = acquireVsCodeApi();
const root = document.getElementById('root') ?? document.body;

const channel = new Channel(host, message => view.take(message));
const view = new ReportView(chosenBefore(host.getState()), {
  request: (method, argument, rest) => channel.request(method, argument, rest),
  save: quality => host.setState({ quality }),
});

function chosenBefore(state: unknown): string | undefined {
  const quality: unknown = typeof state === 'object' && state !== null ? Reflect.get(state, 'quality') : undefined;
  return typeof quality === 'string' ? quality : undefined;
}

begin(root, () => view.element, () => channel.request('ready'));
