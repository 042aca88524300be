/** A context menu at a point: the keyboard's and the screen reader's as much as the mouse's. */
import { h } from './dom.ts';

export interface MenuItem {
  readonly label: string;
  readonly act: () => void;
  /** A line above it: another group begins. */
  readonly first?: boolean;
}

let open: (() => void) | undefined;

/** Opens a menu, and closes any other. It takes the focus, and gives it back to `from` when it closes. */
export function showMenu(label: string, items: readonly MenuItem[], at: { readonly x: number; readonly y: number }, from: HTMLElement): void {
  open?.();
  const elements = items.map(item => {
    const element = h('div', { role: 'menuitem', tabindex: '-1', class: item.first ? 'first' : undefined }, item.label);
    element.addEventListener('click', () => run(item));
    element.addEventListener('pointerenter', () => element.focus());
    return element;
  });
  const menu = h('div', { role: 'menu', class: 'menu', 'aria-label': label }, ...elements);
  const close = (giveBack: boolean) => {
    open = undefined;
    document.removeEventListener('pointerdown', outside, true);
    window.removeEventListener('blur', leave);
    window.removeEventListener('resize', leave);
    menu.remove();
    if (giveBack) {
      from.focus({ preventScroll: true });
    }
  };
  const leave = () => close(false);
  const outside = (event: Event) => {
    if (!(event.target instanceof Node && menu.contains(event.target))) {
      close(false);
    }
  };
  const run = (item: MenuItem) => {
    close(true);
    item.act();
  };
  menu.addEventListener('contextmenu', event => event.preventDefault());
  menu.addEventListener('keydown', event => {
    const now = elements.findIndex(element => element === document.activeElement);
    const next = { ArrowDown: now + 1, ArrowUp: now - 1 + elements.length, Home: 0, End: elements.length - 1 }[event.key];
    const typed = event.key.length === 1 ? items.findIndex((item, i) => i > now && item.label.toLowerCase().startsWith(event.key.toLowerCase())) : -1;
    if (next !== undefined) {
      elements[next % elements.length]?.focus();
    } else if (event.key === 'Enter' || event.key === ' ') {
      elements[now]?.click();
    } else if (event.key === 'Escape' || event.key === 'Tab') {
      close(true);
    } else if (typed >= 0) {
      elements[typed]?.focus();
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  });
  document.addEventListener('pointerdown', outside, true);
  window.addEventListener('blur', leave);
  window.addEventListener('resize', leave);
  open = leave;
  document.body.append(menu);
  const { width, height } = menu.getBoundingClientRect();
  menu.style.left = `${Math.max(0, Math.min(at.x, window.innerWidth - width - 4))}px`;
  menu.style.top = `${Math.max(0, Math.min(at.y, window.innerHeight - height - 4))}px`;
  elements[0]?.focus({ preventScroll: true });
}
