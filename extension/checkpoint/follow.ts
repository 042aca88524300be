/** Tells of changes in the folders that are shown. */
import { type FSWatcher, watch } from 'node:fs';
import path from 'node:path';

/**
 * One watcher of the system's own for each folder, not for what lies below it.
 *
 * The editor's recursive watcher finds what comes new, but can miss all that happens in a folder whose parent was made in the same moment; a
 * folder that is shown must be followed without fail.
 */
export class FolderWatchers {
  readonly #watchers = new Map<string, FSWatcher>();
  readonly #changed: (folder: string, file: string | undefined) => void;

  /** @param changed is told the folder and the name of the file in it; no name when the folder itself went or the system did not say. */
  constructor(changed: (folder: string, file: string | undefined) => void) {
    this.#changed = changed;
  }

  /** From now on these folders, and no others. A folder that cannot be watched is left out: it is looked at again with the next call. */
  follow(folders: Iterable<string>): void {
    const wanted = new Set(folders);
    for (const folder of this.#watchers.keys()) {
      if (!wanted.has(folder)) {
        this.#stop(folder);
      }
    }
    for (const folder of wanted) {
      if (!this.#watchers.has(folder)) {
        this.#start(folder);
      }
    }
  }

  dispose(): void {
    this.follow([]);
  }

  #start(folder: string): void {
    try {
      const watcher = watch(folder, { persistent: false }, (_, name) => {
        // The folder's own name comes when the folder itself is moved or deleted: what stands there next is another one.
        const itself = name === null || name === path.basename(folder);
        if (itself) {
          this.#stop(folder);
        }
        this.#changed(folder, itself ? undefined : name);
      });
      watcher.on('error', () => this.#stop(folder));
      this.#watchers.set(folder, watcher);
    } catch {
      // Gone already, or no watcher is left on this system; the editor's own watcher may still tell.
    }
  }

  #stop(folder: string): void {
    this.#watchers.get(folder)?.close();
    this.#watchers.delete(folder);
  }
}
