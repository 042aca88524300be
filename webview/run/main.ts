/** The run panel: asks for its run, and passes on what comes. */
import { Channel, type Host } from '../ui/channel.ts';
import { begin } from '../ui/ready.ts';
import { readState } from './state.ts';
import '../ui/base.css';
import '../ui/controls.css';
import '../ui/charts.css';
import '../ui/samples.css';
import './style.css';
import { RunPanelView } from './view.ts';

declare function acquireVsCodeApi(): Host;

const host = acquireVsCodeApi();
const root = document.getElementById('root') ?? document.body;

const channel = new Channel(host, message => {
  if (message.type === 'run' || message.type === 'heal') {
    view.take(message);
  }
});
const view = new RunPanelView(readState(host.getState()), {
  request: (method, argument, rest) => channel.request(method, argument, rest),
  save: state => host.setState(state),
});

begin(root, () => view.element, () => channel.request('ready'));
