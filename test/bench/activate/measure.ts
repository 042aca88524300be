/** Runs inside an extension host, as extensionTestsPath: activates the extension once and prints how long that took as JSON. */
import * as vscode from 'vscode';

export async function run(): Promise<void> {
  const extension = vscode.extensions.getExtension('bondwise.bondwise');
  if (!extension || extension.isActive) {
    throw new Error(extension ? 'The extension was active before it was needed.' : 'The extension is not there.');
  }
  // What VS Code does at first use of a command: read the bundle, run it, call activate().
  const start = performance.now();
  await extension.activate();
  const activate = performance.now() - start;
  await vscode.commands.executeCommand('bondwise.showRuns');
  const used = performance.now() - start;
  console.log(`activated ${JSON.stringify({ activate_ms: activate, first_command_ms: used })}`);
}
