/** The host side of a heatmap, asked as its page asks it. */
import assert from 'node:assert/strict';
import * as vscode from 'vscode';
import type { Api } from '../../extension/extension.ts';
import { type SensitivityActions, SensitivityPanel } from '../../extension/panels/sensitivityPanel.ts';
import type { HostMessage, WebviewRequest } from '../../extension/protocol/types.ts';
import { isHostMessage } from '../../extension/protocol/validate.js';
import { until } from './fixtures.ts';

/** A heatmap whose page is this test. */
export class Page {
  readonly sent: HostMessage[] = [];
  readonly done: string[] = [];
  readonly panel: SensitivityPanel;
  readonly #requests = new vscode.EventEmitter<unknown>();
  readonly #log = vscode.window.createOutputChannel('heatmap test', { log: true });
  #id = 0;

  constructor({ profiles, runs, selection, plans }: Pick<Api, 'profiles' | 'runs' | 'selection' | 'plans'>, shown: string) {
    const webview = {
      onDidReceiveMessage: this.#requests.event,
      postMessage: (message: unknown) => {
        assert.ok(isHostMessage(message), JSON.stringify(isHostMessage.errors));
        this.sent.push(message);
        return Promise.resolve(true);
      },
    } as unknown as vscode.Webview;
    const act =
      (what: string) =>
      (...args: readonly unknown[]) => {
        this.done.push([what, ...args.flat()].join(' '));
        return Promise.resolve();
      };
    const names: readonly (keyof SensitivityActions)[] = ['revealLayer', 'tensorize', 'profile', 'plan', 'exchange', 'exclude', 'cancelRun', 'showRun', 'failed'];
    const actions = Object.fromEntries(names.map(each => [each, act(each)])) as unknown as SensitivityActions;
    this.panel = new SensitivityPanel(shown, webview, { profiles, runs, selection, plans, log: this.#log, actions }, undefined);
  }

  close(): void {
    this.panel.dispose();
    this.#log.dispose();
  }

  post(message: unknown): void {
    this.#requests.fire(message);
  }

  /** Resolves to the host's reason, or null. */
  async ask(method: WebviewRequest['method'], rest: Partial<WebviewRequest> = {}): Promise<string | null> {
    const id = ++this.#id;
    this.post({ id, method, ...rest } satisfies WebviewRequest);
    const reply = await until(`a reply to ${method}`, () => this.sent.find(message => message.type === 'reply' && message.id === id));
    return reply.type === 'reply' ? (reply.error ?? null) : null;
  }

  /** The messages of one kind, in order. */
  of<T extends HostMessage['type']>(type: T): Extract<HostMessage, { type: T }>[] {
    return this.sent.filter((message): message is Extract<HostMessage, { type: T }> => message.type === type);
  }
}
