/** Requests of a webview: validated, done, and answered once each. */
import type * as vscode from 'vscode';
import { isWebviewRequest } from '../protocol/validate.js';
import type { HostMessage, WebviewRequest } from '../protocol/types.ts';
import { messageOf } from '../runs/files.ts';

/** @param name for the log: the panel and what it shows. */
export function answerRequests(webview: vscode.Webview, name: string, log: vscode.LogOutputChannel, act: (request: WebviewRequest) => Promise<void>): vscode.Disposable {
  const answer = async (message: unknown) => {
    if (!isWebviewRequest(message)) {
      log.warn(`${name}: a message that is not valid was left out: ${JSON.stringify(isWebviewRequest.errors?.[0])}`);
      return;
    }
    let error: string | null = null;
    try {
      await act(message);
    } catch (thrown) {
      error = messageOf(thrown);
      log.error(`${name}: ${message.method}: ${error}`);
    }
    await post(webview, { type: 'reply', id: message.id, error });
  };
  return webview.onDidReceiveMessage(message => void answer(message));
}

export async function post(webview: vscode.Webview, message: HostMessage): Promise<void> {
  await webview.postMessage(message);
}

/** A webview that may run its own bundle and nothing else. */
export function webviewOptions(bundles: vscode.Uri): vscode.WebviewOptions {
  return { enableScripts: true, enableCommandUris: false, localResourceRoots: [bundles] };
}
