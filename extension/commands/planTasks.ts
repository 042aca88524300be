/** Tasks of the type `bondwise`: a plan run in a terminal, by name or from tasks.json, alone or before other tasks. */
import path from 'node:path';
import * as vscode from 'vscode';
import { engineArguments, engineVariables, type Environment } from '../engine/find.ts';
import { portablePath } from '../plan/paths.ts';
import { PLAN_SUFFIX } from '../plan/planFile.ts';
import { oneLine } from '../views/text.ts';
import type { EngineCommands } from './engine.ts';

export const TASK_TYPE = 'bondwise';

/** As the manifest defines it. */
interface PlanTask extends vscode.TaskDefinition {
  readonly plan: string;
}

/** So many plans are offered; more are still run by name. */
const MOST = 100;

/** None without an engine, nor in untrusted workspaces: a task starts a program. */
export function planTasks(engine: EngineCommands): vscode.Disposable {
  const environmentOf = async () => {
    const found = vscode.workspace.isTrusted ? await engine.find() : undefined;
    return found?.python === undefined ? undefined : found;
  };
  return vscode.tasks.registerTaskProvider(TASK_TYPE, {
    provideTasks: async () => {
      const environment = await environmentOf();
      const files = environment ? await vscode.workspace.findFiles(`**/*${PLAN_SUFFIX}`, '**/{node_modules,.bondwise,.git}/**', MOST) : [];
      return files.flatMap(file => {
        const folder = vscode.workspace.getWorkspaceFolder(file);
        return environment && folder ? [taskOf({ type: TASK_TYPE, plan: portablePath(folder.uri.fsPath, file.fsPath) }, folder, environment)] : [];
      });
    },
    resolveTask: async ({ definition, scope }) => {
      const folder = typeof scope === 'object' && 'uri' in scope ? scope : vscode.workspace.workspaceFolders?.[0];
      const environment = await environmentOf();
      return folder && environment && isPlanTask(definition) ? taskOf(definition, folder, environment) : undefined;
    },
  });
}

function isPlanTask(definition: vscode.TaskDefinition): definition is PlanTask {
  return typeof definition.plan === 'string' && definition.plan.endsWith(PLAN_SUFFIX);
}

function taskOf(definition: PlanTask, folder: vscode.WorkspaceFolder, environment: Environment): vscode.Task {
  const plan = path.resolve(folder.uri.fsPath, definition.plan);
  const env = Object.fromEntries(Object.entries(engineVariables(environment)).flatMap(([key, value]) => (value === undefined ? [] : [[key, value]])));
  // Beside the other runs of the folder, so that the Runs view shows it.
  const execution = new vscode.ProcessExecution(environment.python, engineArguments(['run', plan]), { cwd: folder.uri.fsPath, env });
  const task = new vscode.Task(definition, folder, vscode.l10n.t('run {0}', oneLine(definition.plan, 80)), 'Bondwise', execution, []);
  task.group = vscode.TaskGroup.Build;
  return task;
}
