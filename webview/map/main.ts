/** The model map: asks for its model, and passes on what comes. */
import { Channel, type Host } from '../ui/channel.ts';
import { begin } from '../ui/ready.ts';
import { readState } from './state.ts';
import '../ui/base.css';
import '../ui/controls.css';
import '../ui/popups.css';
import '../ui/charts.css';
import '../ui/sheet.css';
import './style.css';
import { MapView } from './view.ts';

declare function acquireVsCodeApi(): Host;

const host = acquireVsCodeApi();
const root = document.getElementById('root') ?? document.body;
const state = readState(host.getState());
const channel = new Channel(host, message => view.take(message));
const view = new MapView(state, {
  request: (method, argument, rest) => channel.request(method, argument, rest),
  save: next => host.setState(next),
});

begin(root, () => view.element, () => channel.request('ready', state.beside));
