/** What a user does with a run: cancel, resume, run again, read, delete; and what a window says when one has ended. */
import path from 'node:path';
import * as vscode from 'vscode';
import { launch } from '../engine/launch.ts';
import { logTail } from '../runs/log.ts';
import { cancelRun, finishRun, resumeRun } from '../runs/control.ts';
import { deleteRun, runAgain } from '../runs/create.ts';
import type { HealResult, ProfileResult } from '../protocol/types.ts';
import { messageOf } from '../runs/files.ts';
import { canCancel, canFinish, canResume, compressedBy, errorOf, isActive, madeBy, type Run } from '../runs/run.ts';
import type { RunStore, RunsChange } from '../runs/store.ts';
import { DetailNode, RunNode, type RunsNode, type RunsTree } from '../views/runsTree.ts';
import { formatBytes } from '../runs/format.ts';
import { healedPerplexity } from '../views/healText.ts';
import { formatShare } from '../views/measured.ts';
import { oneLine } from '../views/text.ts';
import { mayRunAgain } from './consent.ts';
import { copyCommand } from './copyCommand.ts';
import { compareRuns } from './compareRuns.ts';
import { errorText, type Handler } from './register.ts';
import { type ChangeParts, runWithChanges } from './runWithChanges.ts';

export interface RunParts extends ChangeParts {
  readonly tree: RunsTree;
  readonly view: vscode.TreeView<RunsNode>;
  readonly log: vscode.LogOutputChannel;
  readonly showModel: (folder: string) => Promise<void>;
  readonly compare: (folder: string) => void;
  readonly sensitivity: (file: string) => Promise<void>;
  readonly report: (file: string) => Promise<void>;
  /** Whether that panel is in sight. */
  readonly isShown: (directory: string) => boolean;
}

export function runCommands(parts: RunParts): Record<string, Handler> {
  const { runs, view, log } = parts;
  const selected = (...args: readonly unknown[]) => targets(view, runs, args);
  parts.context.subscriptions.push(
    vscode.workspace.registerTextDocumentContentProvider(LOG_SCHEME, { provideTextDocumentContent: async ({ path: file }) => (await logTail(file))?.text ?? '' }),
  );
  return {
    showRuns: () => vscode.commands.executeCommand('bondwise.runs.focus'),
    showOutput: () => log.show(),
    cancelRun: async (...args) => {
      await each(selected(...args).filter(run => canCancel(run) || run.state === 'cancelling'), run => cancelRun(run));
      await runs.refresh();
    },
    finishRun: async (...args) => {
      await each(selected(...args).filter(canFinish), finishRun);
      await runs.refresh();
    },
    showRunPanel: (...args) => {
      const [run] = selected(...args);
      if (run) {
        parts.showPanel(run.directory);
      }
    },
    revealRun: async (...args) => {
      const [run] = selected(...args);
      if (run) {
        await vscode.commands.executeCommand('bondwise.runs.focus');
        await revealRun(parts, run.directory);
      }
    },
    copyRunCommand: async (...args) => {
      const [run] = selected(...args);
      if (run) {
        await copyCommand(parts.engine, run);
      }
    },
    compareRun: (...args) => {
      const folder = compressedBy(selected(...args)[0] ?? {});
      if (folder !== undefined) {
        parts.compare(folder);
      }
    },
    resumeRun: (...args) => resume(parts, selected(...args).filter(canResume)),
    runAgain: async (...args) => {
      const [run] = selected(...args);
      const environment = run && (await mayRunAgain(parts.context, run)) ? await parts.engine.require() : undefined;
      if (run && environment) {
        const directory = await runAgain(run);
        await launch(environment, directory);
        await runs.refresh();
        await revealRun(parts, directory);
      }
    },
    runWithChanges: async (...args) => {
      const [run] = selected(...args);
      if (run) {
        await runWithChanges(parts, run);
      }
    },
    compareRuns: (...args) => compareRuns(runs.runs, args.length > 0 ? selected(...args) : []),
    showRunLog: async (...args) => {
      const [run] = selected(...args);
      if (run) {
        await showLog(run);
      }
    },
    openRunFolder: async (...args) => {
      const [run] = selected(...args);
      if (run) {
        await openFolder(run.directory);
      }
    },
    showRunModel: async (...args) => {
      const [run] = selected(...args);
      const folder = madeBy(run ?? {});
      if (folder !== undefined) {
        await parts.showModel(folder);
      }
    },
    copyRunError: async node => {
      const run = ownerOf(node)?.run;
      const error = run && errorOf(run);
      await vscode.env.clipboard.writeText(error ? [error.message, error.remedy, error.detail].filter(Boolean).join('\n\n') : (run?.problem ?? ''));
    },
    deleteRun: (...args) => remove(runs, selected(...args).filter(run => !isActive(run.state))),
  };
}

/** Brings a run into view without taking the focus. */
export async function revealRun({ tree, view }: Pick<RunParts, 'tree' | 'view'>, directory: string): Promise<void> {
  const node = tree.nodeOf(directory);
  if (node) {
    await view.reveal(node, { select: true, focus: false });
  }
}

/** Tells when a run that was at work in this window's sight has ended; what stands in the view already is not repeated. */
export function announceRuns(parts: RunParts): { dispose(): void } {
  return parts.runs.onDidChange(({ changed }: RunsChange) => {
    for (const { run, before } of changed) {
      if (isActive(before.state) && !isActive(run.state)) {
        announce(parts, run).catch((error: unknown) => parts.log.error(messageOf(error)));
      }
    }
  });
}

/** Once, after the first look: one notification for all runs whose process died while no window was there. */
export async function offerResume(parts: RunParts): Promise<void> {
  const interrupted = parts.runs.runs.filter(run => run.state === 'interrupted' && canResume(run));
  const [first] = interrupted;
  if (!first) {
    return;
  }
  const message =
    interrupted.length === 1 ? vscode.l10n.t('“{0}” was interrupted.', oneLine(first.title)) : vscode.l10n.t('{0} runs were interrupted.', interrupted.length);
  const [again, show] = [interrupted.length === 1 ? vscode.l10n.t('Resume') : vscode.l10n.t('Resume All'), vscode.l10n.t('Show Runs')];
  const chosen = await vscode.window.showWarningMessage(message, again, show);
  if (chosen === again) {
    await resume(parts, interrupted);
  } else if (chosen === show) {
    await revealRun(parts, first.directory);
  }
}

async function announce(parts: RunParts, run: Run): Promise<void> {
  const title = oneLine(run.title);
  if (run.state === 'done') {
    await announceDone(parts, run, title);
  } else if (run.state === 'failed' || run.state === 'interrupted') {
    const error = errorOf(run);
    const message = error ? errorText(error) : vscode.l10n.t('“{0}” stopped.', title);
    const [show, again] = [vscode.l10n.t('Show Log'), vscode.l10n.t('Resume')];
    const chosen = await (run.state === 'failed' ? vscode.window.showErrorMessage(message, show) : vscode.window.showWarningMessage(`${title}: ${message}`, again, show));
    if (chosen === show) {
      await showLog(run);
    } else if (chosen === again) {
      await resume(parts, [run]);
    }
  }
}

/** Seconds; what took no longer has ended before the eyes of who started it. */
const SHORT = 10;

async function announceDone(parts: RunParts, run: Run, title: string): Promise<void> {
  const { result } = run;
  const folder = madeBy(run);
  if (folder !== undefined) {
    await parts.models.made(folder);
  }
  if (result && result.kind !== 'sample-model' && result.seconds < SHORT && vscode.window.state.focused) {
    return;
  }
  const [compare, show] = [vscode.l10n.t('Compare'), vscode.l10n.t('Show Model')];
  if (result?.kind === 'tensorize' || result?.kind === 'quantize') {
    const name = path.basename(result.output);
    const text =
      result.kind === 'tensorize'
        ? vscode.l10n.t('{0} is ready: {1} of the original’s parameters.', name, formatShare(result.parameters / result.original_parameters))
        : vscode.l10n.t('{0} is ready: {1}, {2} bits a parameter.', name, formatBytes(result.bytes), result.bits_per_parameter.toFixed(2));
    const chosen = await vscode.window.showInformationMessage(text, compare, show);
    if (chosen === compare) {
      parts.compare(result.output);
    } else if (chosen === show) {
      await parts.showModel(result.output);
    }
  } else if (result?.kind === 'sample-model') {
    if ((await vscode.window.showInformationMessage(vscode.l10n.t('The sample model is ready: {0}.', path.basename(result.output)), show)) === show) {
      await parts.showModel(result.output);
    }
  } else if (result?.kind === 'heal') {
    await announceHealed(parts, run, result);
  } else if (result?.kind === 'profile') {
    await announceProfile(parts, result);
  } else if (result?.kind === 'benchmark') {
    await announceReport(parts, result.output);
  } else if (result?.kind === 'export') {
    const message = vscode.l10n.t('{0} is ready: {1} at the original’s size, for tools that know no MPOs.', path.basename(result.output), result.architecture);
    if ((await vscode.window.showInformationMessage(message, show)) === show) {
      await parts.showModel(result.output);
    }
  } else {
    await vscode.window.showInformationMessage(vscode.l10n.t('“{0}” is done.', title));
  }
}

/** Not where the panel is in sight: it says the same. */
async function announceHealed({ isShown, compare, showModel }: RunParts, { directory }: Run, result: HealResult): Promise<void> {
  if (isShown(directory)) {
    return;
  }
  const [side, show] = [vscode.l10n.t('Compare'), vscode.l10n.t('Show Model')];
  const chosen = await vscode.window.showInformationMessage(vscode.l10n.t('{0} is ready: {1} on the text held back.', path.basename(result.output), healedPerplexity(result)), side, show);
  if (chosen === side) {
    compare(result.output);
  } else if (chosen === show) {
    await showModel(result.output);
  }
}

/** Not where the heatmap is in sight: it has shown every cell as it came. */
async function announceProfile(parts: RunParts, { output, cells, curves }: ProfileResult): Promise<void> {
  if (isInSight(output)) {
    return;
  }
  const show = vscode.l10n.t('Show Sensitivity');
  const message = vscode.l10n.t('{0} is ready: {1} layers predicted, {2} cells measured.', path.basename(output), curves, cells);
  if ((await vscode.window.showInformationMessage(message, show)) === show) {
    await parts.sensitivity(output);
  }
}

/** Not where the report is in sight, for the same reason. */
async function announceReport(parts: RunParts, output: string): Promise<void> {
  const show = vscode.l10n.t('Show Benchmark');
  if (!isInSight(output) && (await vscode.window.showInformationMessage(vscode.l10n.t('{0} is ready.', path.basename(output)), show)) === show) {
    await parts.report(output);
  }
}

function isInSight(file: string): boolean {
  return vscode.window.tabGroups.all.some(({ activeTab }) => activeTab?.input instanceof vscode.TabInputCustom && activeTab.input.uri.fsPath === file);
}

async function resume({ context, engine, runs }: RunParts, wanted: readonly Run[]): Promise<void> {
  const allowed: Run[] = [];
  for (const run of wanted) {
    if (await mayRunAgain(context, run)) {
      allowed.push(run);
    }
  }
  const environment = allowed.length > 0 ? await engine.require() : undefined;
  if (environment) {
    await each(allowed, run => resumeRun(run, directory => launch(environment, directory)));
    await runs.refresh();
  }
}

async function remove(runs: RunStore, wanted: readonly Run[]): Promise<void> {
  const [first] = wanted;
  if (!first) {
    return;
  }
  const action = vscode.l10n.t('Delete');
  const question =
    wanted.length === 1 ? vscode.l10n.t('Delete the run “{0}”?', oneLine(first.title)) : vscode.l10n.t('Delete {0} runs?', wanted.length);
  const detail = vscode.l10n.t('Its journal, log and checkpoints go. Models that it made stay.');
  if ((await vscode.window.showWarningMessage(question, { modal: true, detail }, action)) === action) {
    await each(wanted, deleteRun);
    await runs.refresh();
  }
}

/** Does all, then throws the first failure: one run that cannot be handled does not keep the others from it. */
async function each(wanted: readonly Run[], act: (run: Run) => Promise<void>): Promise<void> {
  const outcomes = await Promise.allSettled(wanted.map(act));
  const failed = outcomes.find(outcome => outcome.status === 'rejected');
  if (failed) {
    throw failed.reason;
  }
}

/** Bytes that an editor opens without a pause. */
const LONGEST_LOG = 8 * 1024 * 1024;
/** Of a log too long for an editor: its end, read only. */
const LOG_SCHEME = 'bondwise-log';

async function showLog(run: Run): Promise<void> {
  const name = path.join(run.directory, 'log.txt');
  const file = vscode.Uri.file(name).with((await logTail(name, LONGEST_LOG)) ? { scheme: LOG_SCHEME } : {});
  const document = await vscode.workspace.openTextDocument(file).then(
    found => found,
    () => undefined,
  );
  if (!document) {
    throw new Error(vscode.l10n.t('“{0}” has no log yet: the engine has not said anything.', oneLine(run.title)));
  }
  const editor = await vscode.window.showTextDocument(document, { preview: true });
  const end = document.lineAt(document.lineCount - 1).range.end;
  editor.revealRange(new vscode.Range(end, end));
}

/** In the Explorer when the folder lies in the workspace, else in the system's file manager where this window has one. */
export async function openFolder(folder: string): Promise<void> {
  const uri = vscode.Uri.file(folder);
  if (vscode.workspace.getWorkspaceFolder(uri)) {
    await vscode.commands.executeCommand('revealInExplorer', uri);
  } else if (vscode.env.uiKind === vscode.UIKind.Desktop && vscode.env.remoteName === undefined) {
    await vscode.commands.executeCommand('revealFileInOS', uri);
  } else {
    const copy = vscode.l10n.t('Copy Path');
    if ((await vscode.window.showInformationMessage(vscode.l10n.t('{0} lies outside this workspace.', folder), copy)) === copy) {
      await vscode.env.clipboard.writeText(folder);
    }
  }
}

/** The runs meant: of a context menu with a multi-selection, of the view's selection, or named by directory. */
function targets(view: vscode.TreeView<RunsNode>, runs: RunStore, [clicked, all]: readonly unknown[]): readonly Run[] {
  const nodes = Array.isArray(all) && all.length > 0 ? (all as readonly unknown[]) : clicked === undefined ? view.selection : [clicked];
  const directories = nodes.map(node => (typeof node === 'string' ? node : node instanceof DetailNode && node.detail.run !== undefined ? node.detail.run : ownerOf(node)?.run.directory));
  return [...new Set(directories)].flatMap(directory => (directory === undefined ? [] : (runs.get(directory) ?? [])));
}

function ownerOf(node: unknown): RunNode | undefined {
  return node instanceof DetailNode ? ownerOf(node.parent) : node instanceof RunNode ? node : undefined;
}
