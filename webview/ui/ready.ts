/** How a page begins: it shows that it is there, and asks the extension for what fills it. */
import { h } from './dom.ts';
import { t } from './l10n.ts';
import { button } from './toolkit.ts';

/** Puts `first` into the page and asks; where that fails it says why, with a button that does both again. */
export function begin(root: HTMLElement, first: () => HTMLElement, ask: () => Promise<unknown>): void {
  root.replaceChildren(first());
  ask().catch((error: unknown) => {
    const problem = h('p', { role: 'alert', class: 'problem' }, error instanceof Error ? error.message : String(error));
    root.replaceChildren(problem, button(t('Try Again'), () => begin(root, first, ask)));
  });
}
