/** Text from checkpoints, runs and the engine is untrusted: what shows it passes here. */
import * as vscode from 'vscode';

/** A tooltip: a title, sentences, and pairs of name and value. Nothing in it is interpreted: no links, no HTML, no icons. */
export function tooltip(title: string, lines: readonly (string | readonly [name: string, value: string])[]): vscode.MarkdownString {
  const text = new vscode.MarkdownString('', false);
  text.isTrusted = false;
  text.supportHtml = false;
  text.appendMarkdown('**');
  text.appendText(title);
  text.appendMarkdown('**');
  lines.forEach((line, i) => {
    // A sentence is a paragraph; pairs stand line by line.
    text.appendMarkdown(i > 0 && typeof line !== 'string' ? '  \n' : '\n\n');
    text.appendText(typeof line === 'string' ? line : `${line[0]}: ${line[1]}`);
  });
  return text;
}

/** One line, for labels and notifications: line breaks and control characters become spaces, and it ends after `limit` characters. */
export function oneLine(text: string, limit = 300): string {
  const flat = text.replace(/[\p{Cc}\p{Zl}\p{Zp}\s]+/gu, ' ').trim();
  return flat.length > limit ? `${flat.slice(0, limit - 1)}…` : flat;
}

/** Names a folder as short as it stays clear: relative to its workspace folder where it lies in one. */
export function shortPath(folder: string): string {
  return vscode.workspace.asRelativePath(folder, (vscode.workspace.workspaceFolders?.length ?? 0) > 1);
}
