/** The chat panel: asks for its models, and passes on what comes. */
import { Channel, type Host } from '../ui/channel.ts';
import { h } from '../ui/dom.ts';
import { button } from '../ui/toolkit.ts';
import { t } from '../ui/l10n.ts';
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

function load(): void {
  root.replaceChildren(page.element);
  channel.request('ready').catch((error: unknown) => {
    const problem = h('p', { role: 'alert', class: 'problem' }, error instanceof Error ? error.message : String(error));
    root.replaceChildren(problem, button(t('Try Again'), load));
  });
}

load();
