/** A tool that a language model may call: its input is checked, what it costs is confirmed, and its answer is text. */
import * as vscode from 'vscode';
import type { Validator } from '../protocol/validate.js';
import { reasonOf } from '../runs/files.ts';

export interface Tool<T> {
  /** As in the manifest. */
  readonly name: string;
  readonly isInput: Validator<T>;
  /** What the user sees while it works. */
  readonly working: string;
  /** Asked before anything is written or a device is used; figures first. Absent where a tool only reads. */
  readonly confirm?: (input: T) => Promise<{ readonly title: string; readonly lines: readonly string[] }>;
  readonly run: (input: T, token: vscode.CancellationToken) => Promise<unknown>;
}

/** Registers a tool where the editor has tools at all. */
export function registerTool<T>(tool: Tool<T>): vscode.Disposable {
  return vscode.lm.registerTool<T>(tool.name, {
    prepareInvocation: async ({ input }) => {
      if (!tool.confirm) {
        return { invocationMessage: tool.working };
      }
      const { title, lines } = await tool.confirm(checked(tool, input));
      return { invocationMessage: tool.working, confirmationMessages: { title, message: plainMarkdown(lines) } };
    },
    invoke: async ({ input }, token) => {
      const answer = await tool.run(checked(tool, input), token);
      return new vscode.LanguageModelToolResult([new vscode.LanguageModelTextPart(typeof answer === 'string' ? answer : JSON.stringify(answer))]);
    },
  });
}

/** @throws in words that the model can act on. */
function checked<T>({ name, isInput }: Tool<T>, input: unknown): T {
  const value = input ?? {};
  if (!isInput(value)) {
    throw new Error(`The input of ${name} is not right: ${reasonOf(isInput)}`);
  }
  return value;
}

/** Names come from files: nothing in them may become markup or a link. */
function plainMarkdown(lines: readonly string[]): vscode.MarkdownString {
  const text = new vscode.MarkdownString();
  for (const [at, line] of lines.entries()) {
    text.appendText(`${at > 0 ? '\n\n' : ''}${line}`);
  }
  return text;
}
