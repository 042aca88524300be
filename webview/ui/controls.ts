/** Native form controls with a label, where the toolkit has none or a poorer one. */
import { h } from './dom.ts';

export interface Option {
  readonly id: string;
  readonly name: string;
  readonly hint?: string;
  /** Heading that it stands under. */
  readonly group?: string;
}

/** A list to choose one of. `show` sets what it offers and what is chosen, and touches nothing that is right already. */
export function choice(label: string, onChange: (id: string) => void): { readonly element: HTMLElement; show(options: readonly Option[], chosen: string): void } {
  const list = document.createElement('select');
  list.addEventListener('change', () => onChange(list.value));
  let shown = '';
  return {
    element: h('label', { class: 'field' }, h('span', {}, label), list),
    show: (options, chosen) => {
      const key = JSON.stringify(options);
      if (key !== shown) {
        shown = key;
        const groups = [...new Set(options.map(option => option.group))];
        const within = (group: string | undefined) =>
          options.filter(option => option.group === group).map(({ id, name, hint }) => h('option', { value: id, title: hint }, name));
        list.replaceChildren(...groups.flatMap(group => (group === undefined ? within(group) : [h('optgroup', { label: group }, ...within(group))])));
      }
      list.value = chosen;
      list.title = options.find(({ id }) => id === chosen)?.hint ?? '';
    },
  };
}

/** Two or three things of which one holds, side by side. */
export function switcher<T extends string>(
  label: string,
  options: readonly { readonly id: T; readonly name: string; readonly hint: string }[],
  onChange: (id: T) => void,
): { readonly element: HTMLElement; show(chosen: T): void } {
  const buttons = options.map(({ id, name, hint }) => {
    const input = document.createElement('input');
    input.type = 'radio';
    input.name = label;
    input.value = id;
    input.addEventListener('change', () => onChange(id));
    return { id, input, element: h('label', { title: hint }, input, h('span', {}, name)) };
  });
  return {
    element: h('div', { class: 'switcher', role: 'radiogroup', 'aria-label': label }, ...buttons.map(({ element }) => element)),
    show: chosen => buttons.forEach(({ id, input }) => (input.checked = id === chosen)),
  };
}

/** A slider that stops at given values only. */
export function stops(
  label: string,
  format: (value: number) => string,
  onInput: (value: number) => void,
): { readonly element: HTMLElement; show(values: readonly number[], now: number): void } {
  const slider = document.createElement('input');
  slider.type = 'range';
  slider.min = '0';
  slider.step = '1';
  slider.setAttribute('aria-label', label);
  const output = h('output', {});
  let values: readonly number[] = [];
  const tell = () => {
    const text = format(values[Number(slider.value)] ?? 0);
    slider.setAttribute('aria-valuetext', text);
    output.textContent = text;
  };
  slider.addEventListener('input', () => {
    tell();
    const value = values[Number(slider.value)];
    if (value !== undefined) {
      onInput(value);
    }
  });
  return {
    element: h('div', { class: 'stops' }, slider, output),
    show: (next, now) => {
      values = next;
      slider.max = String(Math.max(0, next.length - 1));
      slider.disabled = next.length < 2;
      slider.value = String(Math.max(0, next.indexOf(now)));
      if (next.length === 0) {
        output.textContent = '–';
      } else {
        tell();
      }
    },
  };
}

/** A box with a label that may change; a long one is cut, and whole in the hint. */
export function check(onChange: (on: boolean) => void): { readonly element: HTMLElement; show(label: string, hint: string, on: boolean): void } {
  const box = document.createElement('input');
  box.type = 'checkbox';
  box.addEventListener('change', () => onChange(box.checked));
  const text = h('span', {});
  const element = h('label', { class: 'check' }, box, text);
  return {
    element,
    show: (label, hint, on) => {
      text.textContent = label;
      element.title = `${label}: ${hint}`;
      box.checked = on;
    },
  };
}
