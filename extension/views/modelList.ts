/** Which models are shown: found in the workspace, or added by the user; followed as folders change, come and go. */
import { existsSync } from 'node:fs';
import path from 'node:path';
import * as vscode from 'vscode';
import { type CheckpointProblem, findModels, FolderWatchers, type Model, openModel, problemOf } from '../checkpoint/index.ts';
import { messageOf } from '../runs/files.ts';

export interface ModelEntry {
  readonly folder: string;
  /** Added by the user, not found in the workspace. */
  readonly added: boolean;
  readonly model?: Model;
  /** Why it cannot be shown; then there is no model. */
  readonly problem?: CheckpointProblem;
}

/** Keys in the workspace's state. */
const ADDED = 'models.added';
const HIDDEN = 'models.hidden';
/** Milliseconds in which file events are gathered: a checkpoint is written in many steps. */
const SETTLE = 400;
const OPEN_AT_ONCE = 4;
/** Folders that hold no models of their own and change a lot. */
const NOISE = /[\\/](node_modules|\.git|\.bondwise|\.venv|__pycache__)([\\/]|$)/;

export class ModelList implements vscode.Disposable {
  readonly #changed = new vscode.EventEmitter<void>();
  readonly onDidChange = this.#changed.event;
  readonly #state: vscode.Memento;
  readonly #log: vscode.LogOutputChannel;
  readonly #subscriptions: { dispose(): void }[] = [];
  readonly #watchers = new FolderWatchers((folder, file) => {
    if (file === undefined || belongsToModel(file)) this.#touch(folder);
  });
  readonly #stale = new Set<string>();
  #entries = new Map<string, ModelEntry>();
  #started = false;
  #scan: Promise<void> | undefined;
  #again = false;
  #timer: NodeJS.Timeout | undefined;

  constructor(state: vscode.Memento, log: vscode.LogOutputChannel) {
    this.#state = state;
    this.#log = log;
  }

  dispose(): void {
    clearTimeout(this.#timer);
    for (const subscription of [...this.#subscriptions, this.#watchers]) {
      subscription.dispose();
    }
    this.#changed.dispose();
  }

  /** By name, and by folder where names are equal. */
  get entries(): readonly ModelEntry[] {
    return [...this.#entries.values()].sort(
      (a, b) => compare(path.basename(a.folder), path.basename(b.folder)) || compare(a.folder, b.folder),
    );
  }

  get(folder: string): ModelEntry | undefined {
    return this.#entries.get(path.resolve(folder));
  }

  /** Resolves when the models are known. The workspace is not looked at before the first call. */
  async ready(): Promise<void> {
    if (!this.#started) {
      this.#started = true;
      this.#watchWorkspace();
      await this.refresh();
    }
    await this.#scan;
  }

  /** Looks for models again and opens those that changed. */
  async refresh(everything = true): Promise<void> {
    if (everything) {
      this.#entries.forEach(({ folder }) => this.#stale.add(folder));
    }
    if (this.#scan) {
      this.#again = true;
    } else {
      this.#scan = this.#scanUntilQuiet().finally(() => {
        this.#scan = undefined;
      });
    }
    await this.#scan;
  }

  /** Shows a folder from now on, also in the next window. @returns its entry, which may tell of a problem. */
  async add(folder: string): Promise<ModelEntry | undefined> {
    const wanted = path.resolve(folder);
    await this.#store(HIDDEN, this.#stored(HIDDEN).filter(hidden => hidden !== wanted));
    if (!this.#stored(ADDED).includes(wanted)) {
      await this.#store(ADDED, [...this.#stored(ADDED), wanted]);
    }
    this.#stale.add(wanted);
    await this.ready();
    await this.refresh(false);
    return this.get(wanted);
  }

  /** Takes an `add` back: the folder is shown only if the workspace holds a model there. */
  async forget(folder: string): Promise<void> {
    const wanted = path.resolve(folder);
    await this.#store(ADDED, this.#stored(ADDED).filter(added => added !== wanted));
    await this.refresh(false);
  }

  /** A run has made this model: it is shown, or shown anew, wherever it lies. */
  async made(folder: string): Promise<void> {
    if (!vscode.workspace.getWorkspaceFolder(vscode.Uri.file(folder)) || this.#stored(HIDDEN).includes(path.resolve(folder))) {
      await this.add(folder);
    } else if (this.#started) {
      this.#stale.add(path.resolve(folder));
      await this.refresh(false);
    }
  }

  /** Takes a folder out of the view; nothing on disk changes. It comes back by `add`. */
  async remove(folder: string): Promise<void> {
    const unwanted = path.resolve(folder);
    await this.#store(ADDED, this.#stored(ADDED).filter(added => added !== unwanted));
    await this.#store(HIDDEN, [...new Set([...this.#stored(HIDDEN), unwanted])]);
    await this.refresh(false);
  }

  async #scanUntilQuiet(): Promise<void> {
    do {
      this.#again = false;
      await this.#look();
    } while (this.#wantedAgain());
    await Promise.all([
      vscode.commands.executeCommand('setContext', 'bondwise.noModels', this.#entries.size === 0),
      vscode.commands.executeCommand('setContext', 'bondwise.hasModels', this.#entries.size > 0),
      vscode.commands.executeCommand('setContext', 'bondwise.hasCompressedModel', this.entries.some(({ model }) => model?.lineage)),
    ]);
  }

  /** A function, because the compiler takes a field for unchanged across an await. */
  #wantedAgain(): boolean {
    return this.#again;
  }

  async #look(): Promise<void> {
    const stale = new Set(this.#stale);
    this.#stale.clear();
    const added = this.#stored(ADDED);
    const hidden = new Set(this.#stored(HIDDEN));
    const found = await this.#find();
    // A folder that is not there now is not shown, but not forgotten: disks come back.
    const there = added.filter(folder => existsSync(folder));
    const folders = [...new Set([...found, ...there])].filter(folder => !hidden.has(folder));
    const next = new Map<string, ModelEntry>();
    // Before they are opened, so that no change falls between.
    this.#watchers.follow(folders);
    await atOnce(OPEN_AT_ONCE, folders, async folder => {
      const known = this.#entries.get(folder);
      const isAdded = added.includes(folder);
      next.set(folder, known && !stale.has(folder) ? { ...known, added: isAdded } : await this.#open(folder, isAdded));
    });
    const changed = next.size !== this.#entries.size || [...next].some(([folder, entry]) => !same(entry, this.#entries.get(folder)));
    this.#entries = next;
    if (changed) {
      // While VS Code reads rows anew, a click in their menus finds none: so not for nothing.
      this.#changed.fire();
    }
  }

  async #find(): Promise<readonly string[]> {
    const roots = (vscode.workspace.workspaceFolders ?? []).filter(({ uri }) => uri.scheme === 'file').map(({ uri }) => uri.fsPath);
    const found: string[] = [];
    for (const root of roots) {
      try {
        for await (const folder of findModels(root)) {
          found.push(folder);
        }
      } catch (error) {
        this.#log.warn(`models in ${root}: ${messageOf(error)}`);
      }
    }
    return found;
  }

  async #open(folder: string, added: boolean): Promise<ModelEntry> {
    const begun = performance.now();
    try {
      const model = await openModel(folder);
      this.#log.debug(`opened ${folder}: ${model.blocks.length} blocks in ${(performance.now() - begun).toFixed(0)} ms`);
      return { folder, added, model };
    } catch (error) {
      const problem = problemOf(error, folder);
      this.#log.warn(`${folder}: ${problem.message} ${problem.remedy}`);
      return { folder, added, problem };
    }
  }

  #watchWorkspace(): void {
    // When a folder goes or comes as a whole, the system tells of the folder only: so every event is looked at, and most are left out.
    const watcher = vscode.workspace.createFileSystemWatcher('**');
    this.#subscriptions.push(
      watcher,
      watcher.onDidCreate(uri => void this.#onCreated(uri)),
      watcher.onDidChange(uri => this.#onChanged(uri.fsPath)),
      watcher.onDidDelete(uri => this.#onDeleted(uri)),
      vscode.workspace.onDidChangeWorkspaceFolders(() => void this.refresh(false)),
    );
  }

  async #onCreated(uri: vscode.Uri): Promise<void> {
    if (NOISE.test(uri.fsPath)) {
      return;
    }
    if (belongsToModel(uri.fsPath)) {
      this.#onChanged(uri.fsPath);
    } else if (!this.#timer) {
      // A folder may have come as a whole. One that comes while a look is due anyway is seen by that look.
      const found = await vscode.workspace.fs.stat(uri).then(
        stat => stat.type,
        () => undefined,
      );
      if (found !== undefined && (found & vscode.FileType.Directory) !== 0) {
        this.#soon();
      }
    }
  }

  #onChanged(file: string): void {
    if (belongsToModel(file) && !NOISE.test(file)) {
      this.#touch(path.dirname(file));
    }
  }

  #touch(folder: string): void {
    this.#stale.add(folder);
    this.#soon();
  }

  #onDeleted(uri: vscode.Uri): void {
    const gone = uri.fsPath;
    const inside = this.entries.filter(({ folder }) => folder === gone || folder.startsWith(gone + path.sep));
    inside.forEach(({ folder }) => this.#stale.add(folder));
    if (inside.length > 0) {
      this.#soon();
    } else {
      this.#onChanged(gone);
    }
  }

  #soon(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      void this.refresh(false);
    }, SETTLE);
  }

  #stored(key: string): readonly string[] {
    return this.#state.get<readonly string[]>(key, []);
  }

  async #store(key: string, folders: readonly string[]): Promise<void> {
    await this.#state.update(key, folders.length > 0 ? folders : undefined);
  }
}

function same(entry: ModelEntry, before: ModelEntry | undefined): boolean {
  return entry.model === before?.model && entry.added === before?.added && entry.problem === before.problem;
}

/** Files whose change makes a model another one. */
function belongsToModel(file: string): boolean {
  return /(^|[\\/])(config|bondwise)\.json$|\.safetensors(\.index\.json)?$/.test(file);
}

function compare(a: string, b: string): number {
  return a.localeCompare(b, 'en', { numeric: true });
}

async function atOnce<T>(limit: number, items: readonly T[], act: (item: T) => Promise<void>): Promise<void> {
  const waiting = [...items];
  const work = async () => {
    for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
      await act(next);
    }
  };
  await Promise.all(Array.from({ length: limit }, work));
}
