/**
 * The runs in one or more folders of runs, followed as they go on: by the file system's own events, and by looking every second
 * where work goes on, because network file systems have no events. Runs that somebody else started appear like one's own.
 */
import { type FSWatcher, watch } from 'node:fs';
import { readdir } from 'node:fs/promises';
import path from 'node:path';
import { Emitter } from './emitter.ts';
import { RunReader } from './reader.ts';
import { compareRuns, isActive, type Run } from './run.ts';

export interface RunsChange {
  readonly added: readonly Run[];
  /** The new snapshot of each run that changed, with the one before. */
  readonly changed: readonly { readonly run: Run; readonly before: Run }[];
  readonly removed: readonly Run[];
}

export interface RunStoreOptions {
  /** Milliseconds between looks while a run is active. */
  readonly activeInterval?: number;
  /** Milliseconds between looks while none is. */
  readonly idleInterval?: number;
  /** Whether to listen to the file system as well. */
  readonly useEvents?: boolean;
}

/** Milliseconds in which several file events become one look. */
const SETTLE = 50;

export class RunStore {
  readonly #onDidChange = new Emitter<RunsChange>();
  readonly onDidChange = this.#onDidChange.event;
  readonly #activeInterval: number;
  readonly #idleInterval: number;
  readonly #useEvents: boolean;
  readonly #readers = new Map<string, RunReader>();
  readonly #watchers = new Map<string, FSWatcher>();
  #roots: readonly string[] = [];
  #runs = new Map<string, Run>();
  #refreshing: Promise<void> | undefined;
  #again = false;
  #timer: NodeJS.Timeout | undefined;
  #due = Infinity;
  #disposed = false;

  constructor({ activeInterval = 1000, idleInterval = 5000, useEvents = true }: RunStoreOptions = {}) {
    this.#activeInterval = activeInterval;
    this.#idleInterval = idleInterval;
    this.#useEvents = useEvents;
  }

  /** All runs: active ones first, then the newest first. */
  get runs(): readonly Run[] {
    return [...this.#runs.values()].sort(compareRuns);
  }

  get active(): readonly Run[] {
    return this.runs.filter(run => isActive(run.state));
  }

  /** By directory or by id. */
  get(name: string): Run | undefined {
    return this.#runs.get(name) ?? [...this.#runs.values()].find(run => run.id === name);
  }

  /** Which folders hold runs. A folder that is not there yet is looked for again. Resolves after the first look. */
  async setRoots(roots: readonly string[]): Promise<void> {
    this.#roots = [...new Set(roots.map(root => path.resolve(root)))];
    await this.refresh();
  }

  /** Looks now. Resolves when everything that was on disk at the call has been seen and told. */
  async refresh(): Promise<void> {
    if (this.#refreshing) {
      this.#again = true;
      return this.#refreshing;
    }
    this.#refreshing = this.#refreshUntilQuiet().finally(() => {
      this.#refreshing = undefined;
      this.#schedule(this.active.length > 0 ? this.#activeInterval : this.#idleInterval);
    });
    return this.#refreshing;
  }

  dispose(): void {
    this.#disposed = true;
    clearTimeout(this.#timer);
    for (const watcher of this.#watchers.values()) {
      watcher.close();
    }
    this.#watchers.clear();
    this.#onDidChange.dispose();
  }

  async #refreshUntilQuiet(): Promise<void> {
    do {
      this.#again = false;
      const seen = await this.#look();
      if (this.#stopped()) {
        return;
      }
      const change = difference(this.#runs, seen);
      this.#runs = seen;
      this.#listen();
      if (change.added.length + change.changed.length + change.removed.length > 0) {
        this.#onDidChange.fire(change);
      }
    } while (this.#wantedAgain());
  }

  /** Functions, because the compiler takes a field for unchanged across an await. */
  #stopped(): boolean {
    return this.#disposed;
  }

  #wantedAgain(): boolean {
    return this.#again && !this.#disposed;
  }

  async #look(): Promise<Map<string, Run>> {
    const directories = (await Promise.all(this.#roots.map(directoriesIn))).flat();
    for (const gone of [...this.#readers.keys()].filter(known => !directories.includes(known))) {
      this.#readers.delete(gone);
    }
    const seen = new Map<string, Run>();
    for (const directory of directories) {
      const reader = this.#readers.get(directory) ?? new RunReader(directory);
      this.#readers.set(directory, reader);
      const run = await reader.read();
      if (run) {
        seen.set(directory, run);
      }
    }
    return seen;
  }

  /** Watches the roots and the directories of active runs, and nothing else: watches are scarce. */
  #listen(): void {
    if (!this.#useEvents) {
      return;
    }
    const wanted = new Set([...this.#roots, ...[...this.#runs.values()].filter(run => isActive(run.state)).map(run => run.directory)]);
    for (const [directory, watcher] of this.#watchers) {
      if (!wanted.has(directory)) {
        watcher.close();
        this.#watchers.delete(directory);
      }
    }
    for (const directory of wanted) {
      if (!this.#watchers.has(directory)) {
        this.#watch(directory);
      }
    }
  }

  #watch(directory: string): void {
    try {
      const watcher = watch(directory, { persistent: false }, () => this.#schedule(SETTLE));
      watcher.on('error', () => {
        watcher.close();
        this.#watchers.delete(directory);
      });
      this.#watchers.set(directory, watcher);
    } catch {
      // Not there yet, or no watches left: the looks at intervals see it.
    }
  }

  /** The next look happens after this many milliseconds, or earlier when one is due earlier. */
  #schedule(milliseconds: number): void {
    const due = performance.now() + milliseconds;
    if (this.#disposed || (this.#timer && this.#due <= due)) {
      return;
    }
    clearTimeout(this.#timer);
    this.#due = due;
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      void this.refresh();
    }, milliseconds);
    this.#timer.unref();
  }
}

async function directoriesIn(root: string): Promise<string[]> {
  try {
    const entries = await readdir(root, { withFileTypes: true });
    return entries.filter(entry => entry.isDirectory() && !entry.name.startsWith('.')).map(entry => path.join(root, entry.name));
  } catch {
    return [];
  }
}

function difference(before: ReadonlyMap<string, Run>, after: ReadonlyMap<string, Run>): RunsChange {
  const added: Run[] = [];
  const changed: { run: Run; before: Run }[] = [];
  for (const [directory, run] of after) {
    const earlier = before.get(directory);
    if (!earlier) {
      added.push(run);
    } else if (earlier !== run) {
      changed.push({ run, before: earlier });
    }
  }
  return { added, changed, removed: [...before].filter(([directory]) => !after.has(directory)).map(([, run]) => run) };
}
