/** Which plan is laid over a profile: the one that is open in an editor, else the one that was changed last. The files tell; nothing else does. */
import { readdir, readFile, stat } from 'node:fs/promises';
import path from 'node:path';
import * as vscode from 'vscode';
import { isPlanFor } from '../plan/overlay.ts';
import { Plan, PLAN_SUFFIX, PlanError, type PlanContent } from '../plan/planFile.ts';
import { isMissing } from '../runs/files.ts';

export interface ShownPlan {
  readonly file: string;
  readonly plan: PlanContent;
}

const PATTERN = `**/*${PLAN_SUFFIX}`;
/** Milliseconds in which changes are gathered: an editor tells of every key. */
const SETTLE = 300;

export class PlanOverlays implements vscode.Disposable {
  readonly #changed = new vscode.EventEmitter<void>();
  /** Another plan may be the one to show, or a plan says something else. */
  readonly onDidChange = this.#changed.event;
  readonly #subscriptions: vscode.Disposable[] = [];
  /** Folders outside the workspace that are followed. */
  readonly #followed = new Set<string>();
  /** A text that is being typed is no plan for a while: then what it said before is shown. */
  readonly #lastGood = new Map<string, PlanContent>();
  #timer: NodeJS.Timeout | undefined;

  dispose(): void {
    clearTimeout(this.#timer);
    vscode.Disposable.from(...this.#subscriptions).dispose();
    this.#changed.dispose();
  }

  /** @param folder of the profile's model, where that is known. */
  async shownOn(profile: string, folder: string | undefined): Promise<ShownPlan | undefined> {
    const places = new Set([profile, ...(folder === undefined ? [] : [folder])].map(place => path.dirname(place)));
    this.#follow(places);
    const open = openFiles();
    const others = (await this.#find(places)).filter(file => !open.includes(file));
    for (const file of [...open, ...(await byChange(others))]) {
      const plan = await this.#read(file);
      if (plan && isPlanFor(plan, file, { file: profile, folder })) {
        return { file, plan };
      }
    }
    return undefined;
  }

  #follow(places: Iterable<string>): void {
    const soon = () => this.#soon();
    const watch = (pattern: vscode.GlobPattern) => {
      const watcher = vscode.workspace.createFileSystemWatcher(pattern);
      this.#subscriptions.push(watcher, watcher.onDidCreate(soon), watcher.onDidChange(soon), watcher.onDidDelete(soon));
    };
    if (this.#subscriptions.length === 0) {
      watch(PATTERN);
      this.#subscriptions.push(
        vscode.window.tabGroups.onDidChangeTabs(soon),
        vscode.window.tabGroups.onDidChangeTabGroups(soon),
        vscode.workspace.onDidChangeTextDocument(({ document, contentChanges }) => {
          if (contentChanges.length > 0 && document.uri.fsPath.endsWith(PLAN_SUFFIX)) {
            soon();
          }
        }),
      );
    }
    for (const place of places) {
      if (!this.#followed.has(place) && !vscode.workspace.getWorkspaceFolder(vscode.Uri.file(place))) {
        this.#followed.add(place);
        watch(new vscode.RelativePattern(vscode.Uri.file(place), `*${PLAN_SUFFIX}`));
      }
    }
  }

  /** In the workspace, and beside the profile and its model. */
  async #find(places: Iterable<string>): Promise<readonly string[]> {
    const found = new Set((await vscode.workspace.findFiles(PATTERN, '**/{node_modules,.git,.venv,.bondwise}/**')).map(uri => uri.fsPath));
    for (const place of places) {
      const names = await readdir(place).catch(() => []);
      names.filter(name => name.endsWith(PLAN_SUFFIX)).forEach(name => found.add(path.join(place, name)));
    }
    // A hidden one is being written.
    return [...found].filter(file => !path.basename(file).startsWith('.'));
  }

  /** The plan in a file as its editor has it, saved or not; undefined where there is none that can be read. */
  async #read(file: string): Promise<PlanContent | undefined> {
    try {
      const document = vscode.workspace.textDocuments.find(({ uri, isDirty }) => isDirty && uri.scheme === 'file' && uri.fsPath === file);
      const { file: plan } = new Plan(document?.getText() ?? (await readFile(file, 'utf8')), path.basename(file));
      this.#lastGood.set(file, plan);
      return plan;
    } catch (error) {
      if (isMissing(error)) {
        this.#lastGood.delete(file);
      } else if (!(error instanceof PlanError)) {
        throw error;
      }
      return this.#lastGood.get(file);
    }
  }

  #soon(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#changed.fire(), SETTLE);
  }
}

/** Plans in editors: the active one first, then those that are in sight. */
function openFiles(): readonly string[] {
  const rank = (tab: vscode.Tab) => (tab.isActive ? (tab.group.isActive ? 0 : 1) : 2);
  const tabs = vscode.window.tabGroups.all.flatMap(({ tabs: own }) => own).sort((a, b) => rank(a) - rank(b));
  const files = tabs.flatMap(({ input }) => (input instanceof vscode.TabInputText && input.uri.scheme === 'file' ? [input.uri.fsPath] : []));
  return [...new Set(files.filter(file => file.endsWith(PLAN_SUFFIX)))];
}

/** The one that was changed last first. */
async function byChange(files: readonly string[]): Promise<readonly string[]> {
  const dated = await Promise.all(files.map(async file => ({ file, changed: await stat(file).then(found => found.mtimeMs, () => 0) })));
  return dated.sort((a, b) => b.changed - a.changed).map(({ file }) => file);
}
