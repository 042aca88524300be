/** Elements from plain values. Text goes in as text nodes only, so nothing from a checkpoint or a model can become markup. */

export type Child = Node | string | undefined;

/** Makes an element with attributes and children; an attribute that is undefined is left out. */
export function h(tag: string, attributes: Readonly<Record<string, string | undefined>> = {}, ...children: readonly Child[]): HTMLElement {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined) {
      element.setAttribute(name, value);
    }
  }
  element.append(...children.filter(child => child !== undefined));
  return element;
}
