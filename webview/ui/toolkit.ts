/** The only module that imports the (archived) toolkit: another set of controls would be a change of this file. */
import { provideVSCodeDesignSystem, vsCodeButton, vsCodeProgressRing } from '@vscode/webview-ui-toolkit';
import { h } from './dom.ts';

provideVSCodeDesignSystem().register(vsCodeButton(), vsCodeProgressRing());

export function button(label: string, onClick: () => void, appearance: 'primary' | 'secondary' = 'secondary'): HTMLElement {
  const element = h('vscode-button', { appearance }, label);
  element.addEventListener('click', onClick);
  return element;
}

export function busy(label: string): HTMLElement {
  return h('div', { class: 'busy', role: 'status' }, h('vscode-progress-ring', { 'aria-label': label }), label);
}
