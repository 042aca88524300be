/** Long parsing in short turns, so that the event loop of an editor's extension host keeps answering. */

const TURN_MS = 8;

export class Pace {
  #end = performance.now() + TURN_MS;

  /** Whether this turn has lasted long enough: then `await rest()`. */
  due(): boolean {
    return performance.now() >= this.#end;
  }

  /** Lets timers, input and output run, then starts the next turn. Throws the signal's reason when it is aborted. */
  async rest(signal?: AbortSignal): Promise<void> {
    await new Promise<void>((resolve) => setImmediate(resolve));
    signal?.throwIfAborted();
    this.#end = performance.now() + TURN_MS;
  }
}
