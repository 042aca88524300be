/** The webview's end of the messages: requests with ids that are answered once or time out, and what the host sends by itself. */
import type { HostMessage, WebviewRequest } from '../../extension/protocol/types.ts';
import { isHostMessage } from '../../extension/protocol/validate.js';
import { t } from './l10n.ts';

const TIMEOUT_MS = 15_000;

interface Waiting {
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
  readonly timer: ReturnType<typeof setTimeout>;
}

/** What VS Code gives a webview, once: see https://code.visualstudio.com/api/extension-guides/webview. */
export interface Host {
  postMessage(message: unknown): void;
  getState(): unknown;
  setState(state: unknown): void;
}

export class Channel {
  readonly #host: Host;
  readonly #waiting = new Map<number, Waiting>();
  #lastId = 0;

  /** @param onMessage called with every valid message that is not a reply. */
  constructor(host: Host, onMessage: (message: Exclude<HostMessage, { type: 'reply' }>) => void) {
    this.#host = host;
    window.addEventListener('message', event => {
      const message: unknown = event.data;
      if (!isHostMessage(message)) {
        console.warn('a message that is not valid was left out', isHostMessage.errors);
      } else if (message.type === 'reply') {
        this.#settle(message.id, message.error ?? undefined);
      } else {
        onMessage(message);
      }
    });
  }

  /** Resolves when the host has done it; rejects with the host's reason, or when no answer comes in time. */
  request(method: WebviewRequest['method'], argument?: string, rest: Pick<WebviewRequest, 'layers' | 'name' | 'chat'> = {}): Promise<void> {
    const id = ++this.#lastId;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => this.#settle(id, t('The extension did not answer. Close this panel and open it again.')), TIMEOUT_MS);
      this.#waiting.set(id, { resolve, reject, timer });
      const request: WebviewRequest = { id, method, argument: argument ?? null, ...rest };
      this.#host.postMessage(request);
    });
  }

  #settle(id: number, error: string | undefined): void {
    const waiting = this.#waiting.get(id);
    if (!waiting) {
      return;
    }
    this.#waiting.delete(id);
    clearTimeout(waiting.timer);
    if (error === undefined) {
      waiting.resolve();
    } else {
      waiting.reject(new Error(error));
    }
  }
}
