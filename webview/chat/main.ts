/** The chat panel: asks for its models, and passes on what comes. */
import { Channel, type Host } from '../ui/channel.ts';
import { begin } from '../ui/ready.ts';
import { readState } from './state.ts';
import '../ui/base.css';
import '../ui/controls.css';
import './style.css';
import { ChatPage } from './view.ts';

declare function acquireVsCodeApi(): Host;

const host = acquireVsCodeApi();
const root = document.getElementById('root') ?? document.body;

const channel = new Channel(host, message => {
  if (message.type === 'chat' || message.type === 'chatToken') {
    page.take(message);
  }
});
const page = new ChatPage(readState(host.getState()), {
  request: (method, argument, rest) => channel.request(method, argument, rest),
  save: state => host.setState(state),
});

begin(root, () => page.element, () => channel.request('ready'));
