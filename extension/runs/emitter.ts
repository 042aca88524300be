/** A typed event, for code that must run without VS Code. Its `event` fits where VS Code's own `Event` is expected. */

export interface Disposable {
  dispose(): void;
}

export type Event<T> = (listener: (value: T) => void) => Disposable;

export class Emitter<T> {
  readonly #listeners = new Set<{ readonly call: (value: T) => void }>();

  /** Adds a listener; the same function added twice is called twice. */
  readonly event: Event<T> = listener => {
    const entry = { call: listener };
    this.#listeners.add(entry);
    return { dispose: () => this.#listeners.delete(entry) };
  };

  fire(value: T): void {
    for (const entry of [...this.#listeners]) {
      entry.call(value);
    }
  }

  dispose(): void {
    this.#listeners.clear();
  }
}
