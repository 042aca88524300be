/** Requests to the extension whose failure is told in the page. */
import type { WebviewRequest } from '../../extension/protocol/types.ts';
import { h } from './dom.ts';

/** Asks the extension; rejects with its reason. */
export type Request = (method: WebviewRequest['method'], argument?: string, rest?: Pick<WebviewRequest, 'layers' | 'name' | 'chat'>) => Promise<void>;

export class Asker {
  /** Empty, or why the last request failed. */
  readonly problem = h('p', { role: 'alert', class: 'problem' });
  readonly #request: Request;
  #open = 0;

  constructor(request: Request) {
    this.#request = request;
  }

  /** Whether an answer is awaited. */
  get isWaiting(): boolean {
    return this.#open > 0;
  }

  ask(...request: Parameters<Request>): void {
    this.problem.textContent = '';
    this.#open++;
    this.#request(...request)
      .catch((error: unknown) => {
        this.problem.textContent = error instanceof Error ? error.message : String(error);
      })
      .finally(() => {
        this.#open--;
      });
  }
}
