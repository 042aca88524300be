/** The tools that language models in the editor may call. */
import * as vscode from 'vscode';
import { benchmarkTool } from './benchmarking.ts';
import { healTool } from './healing.ts';
import { listLayers, listModels, type ReadingParts, readProfile, runStatus } from './reading.ts';
import { quantizeTool } from './quantizing.ts';
import { registerTool } from './tool.ts';
import { planTool, profileTool, runPlanTool, tensorizeTool, type WorkingParts } from './working.ts';

/** Those that write are there in trusted workspaces only. */
export function languageModelTools(parts: ReadingParts & WorkingParts): vscode.Disposable {
  const reading = vscode.Disposable.from(registerTool(listModels(parts)), registerTool(listLayers(parts)), registerTool(readProfile(parts)), registerTool(runStatus(parts)));
  let working: vscode.Disposable | undefined;
  const add = () => {
    working ??= vscode.Disposable.from(registerTool(tensorizeTool(parts)), registerTool(profileTool(parts)), registerTool(planTool(parts)), registerTool(runPlanTool(parts)), registerTool(healTool(parts)), registerTool(quantizeTool(parts)), registerTool(benchmarkTool(parts)));
  };
  if (vscode.workspace.isTrusted) {
    add();
  }
  const trust = vscode.workspace.onDidGrantWorkspaceTrust(add);
  return new vscode.Disposable(() => {
    trust.dispose();
    working?.dispose();
    reading.dispose();
  });
}
