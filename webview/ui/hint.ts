/** A hover beside what it is about: follows the pointer, stays inside the window, and is never in the way of it. */
import { h } from './dom.ts';

type Box = Pick<DOMRect, 'left' | 'right' | 'top' | 'bottom'>;

const DISTANCE = 14;

export class Hint {
  readonly #element = h('div', { class: 'hint', 'aria-hidden': 'true', hidden: '' });
  #key: string | undefined;
  #size = { width: 0, height: 0 };

  /** @param key what it is about: the content is made only where that is another. */
  show(key: string, content: () => Node, beside: Box): void {
    if (!this.#element.isConnected) {
      document.body.append(this.#element);
    }
    if (key !== this.#key) {
      this.#key = key;
      this.#element.replaceChildren(content());
      this.#element.hidden = false;
      const { width, height } = this.#element.getBoundingClientRect();
      this.#size = { width, height };
    }
    const { width, height } = this.#size;
    const right = beside.right + DISTANCE;
    const below = beside.bottom + DISTANCE;
    const left = right + width > window.innerWidth ? Math.max(4, beside.left - DISTANCE - width) : right;
    const top = below + height > window.innerHeight ? Math.max(4, beside.top - DISTANCE - height) : below;
    this.#element.style.transform = `translate(${left}px, ${top}px)`;
  }

  hide(): void {
    this.#key = undefined;
    this.#element.hidden = true;
  }
}
