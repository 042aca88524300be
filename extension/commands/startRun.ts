/** From a request to a run at work. */
import path from 'node:path';
import * as vscode from 'vscode';
import { launch } from '../engine/launch.ts';
import type { EvaluateOptions, RunRequest } from '../protocol/types.ts';
import { createRun } from '../runs/create.ts';
import type { RunStore } from '../runs/store.ts';
import type { EngineCommands } from './engine.ts';

/** Where runs go when no folder is open. */
function runRoots(fallback: vscode.Uri): readonly string[] {
  const folders = vscode.workspace.workspaceFolders ?? [];
  return folders.length > 0 ? folders.map(folder => rootOf(folder)) : [path.join(fallback.fsPath, 'runs')];
}

/**
 * Looks for runs in every workspace folder, now and whenever folders or the setting change.
 * @param first called after the first look.
 */
export function followRunRoots(runs: RunStore, fallback: vscode.Uri, first: () => Promise<void>, failed: (error: unknown) => void): vscode.Disposable {
  const look = () => runs.setRoots(runRoots(fallback));
  look().then(first).catch(failed);
  return vscode.Disposable.from(
    vscode.workspace.onDidChangeWorkspaceFolders(() => void look().catch(failed)),
    vscode.workspace.onDidChangeConfiguration(change => {
      if (change.affectsConfiguration('bondwise.runsFolder')) {
        look().catch(failed);
      }
    }),
  );
}

/** The folder of runs of the workspace folder that a path lies in, else of the first one. */
export function runRootFor(file: string, fallback: vscode.Uri): string {
  const folder = vscode.workspace.getWorkspaceFolder(vscode.Uri.file(file)) ?? vscode.workspace.workspaceFolders?.[0];
  return folder ? rootOf(folder) : path.join(fallback.fsPath, 'runs');
}

/** The fields that every request has. None allows a model's own code: that is the user's, by `withConsent`. */
export function requestBase(title: string, scope: vscode.Uri) {
  return {
    version: 1,
    created: new Date().toISOString(),
    title,
    device: vscode.workspace.getConfiguration('bondwise', scope).get<string>('device', 'auto'),
    seed: 0,
    allow_code: false,
  } as const;
}

/** How models are measured, by the settings. A file is relative to the workspace folder. */
export function evaluateOptions(scope: vscode.Uri): EvaluateOptions {
  const settings = vscode.workspace.getConfiguration('bondwise.evaluation', scope);
  const data = settings.get<string>('data', 'builtin');
  const folder = vscode.workspace.getWorkspaceFolder(scope) ?? vscode.workspace.workspaceFolders?.[0];
  const isFile = /\.(txt|jsonl)$/i.test(data) && !path.isAbsolute(data);
  return {
    data: isFile && folder ? path.join(folder.uri.fsPath, data) : data,
    length: settings.get<number>('length', 512),
    sequences: settings.get<number>('sequences', 8),
    prompt: settings.get<string>('prompt', 'The capital of France is'),
  };
}

/** Whether a request asks for its models to be measured. */
export function isAsked(evaluate: EvaluateOptions | null | undefined): boolean {
  return evaluate !== null && evaluate !== undefined;
}

/**
 * Writes the run directory and starts the engine on it.
 * @returns the run's directory; undefined when there is no engine and the user did not want one.
 */
export async function startRun(engine: EngineCommands, runs: RunStore, root: string, request: RunRequest): Promise<string | undefined> {
  const environment = await engine.require();
  if (!environment) {
    return undefined;
  }
  const directory = await createRun(root, request);
  await launch(environment, directory);
  await runs.refresh();
  return directory;
}

function rootOf(folder: vscode.WorkspaceFolder): string {
  const setting = vscode.workspace.getConfiguration('bondwise', folder.uri).get<string>('runsFolder', '').trim();
  return path.resolve(folder.uri.fsPath, setting === '' ? path.join('.bondwise', 'runs') : setting);
}
