/** What a webview has made — a table, a picture — as a file of the user's choice. */
import path from 'node:path';
import * as vscode from 'vscode';
import { replaceFile } from '../runs/files.ts';

/** Asks where, and writes the file whole. @param content text, or a data URL of base64 for what is no text. */
export async function saveFile(folder: string, name: string, content: string): Promise<void> {
  const uri = await vscode.window.showSaveDialog({ defaultUri: vscode.Uri.file(path.join(folder, safeName(name))) });
  if (uri?.scheme === 'file') {
    await replaceFile(uri.fsPath, bytesOf(content));
  } else if (uri) {
    await vscode.workspace.fs.writeFile(uri, Buffer.from(bytesOf(content)));
  }
}

/** A webview proposes a name, not a place. */
export function safeName(name: string): string {
  return path.posix.basename(name.replaceAll('\\', '/')).replace(/[:*?"<>|\p{Cc}]/gu, '-').replace(/^\.+/, '') || 'sensitivity';
}

/** @throws when a data URL is not base64. */
export function bytesOf(content: string): string | Uint8Array {
  const [head = '', data] = content.startsWith('data:') ? content.split(',', 2) : [];
  if (data === undefined) {
    return content;
  }
  if (!head.endsWith(';base64') || !/^[A-Za-z0-9+/]*={0,2}$/.test(data)) {
    throw new Error('The picture is not a data URL of base64.');
  }
  return Buffer.from(data, 'base64');
}
