/** The profiles of this window: files NAME.sensitivity.json, and what running profiles have found so far. */
import { access, readdir } from 'node:fs/promises';
import path from 'node:path';
import * as vscode from 'vscode';
import { fingerprintOf, type Model } from '../checkpoint/index.ts';
import { layerSensitivities, type LayerSensitivity } from '../profile/levels.ts';
import { type Candidate, type Home, homeOf, latestOf, outputOf, profiledModel, runFor } from '../profile/matching.ts';
import { PROFILE_SUFFIX, type ProfileFile, readProfile } from '../profile/read.ts';
import type { Sensitivity } from '../protocol/types.ts';
import { messageOf } from '../runs/files.ts';
import { isActive, type Run } from '../runs/run.ts';
import type { RunStore } from '../runs/store.ts';
import type { ModelList } from './modelList.ts';

export interface ProfileEntry {
  readonly file: string;
  readonly profile?: Sensitivity;
  /** Why there is none, though there is a file. */
  readonly problem?: string;
  /** What is wrong with the file, in sentences. */
  readonly notes: readonly string[];
  /** The run at work on it, else the last one that was. */
  readonly run?: Run;
}

/** Of each layer, and the file that says so. */
export interface ModelSensitivity {
  readonly file: string;
  readonly layers: ReadonlyMap<string, LayerSensitivity>;
}

const PATTERN = `**/*${PROFILE_SUFFIX}`;
/** Milliseconds in which changes are gathered: of files, and of a run, whose figures come many a second. */
const SETTLE = 200;
const SETTLE_RUN = 1000;

export class ProfileList implements vscode.Disposable {
  readonly #changed = new vscode.EventEmitter<void>();
  /** Other files, or other figures. */
  readonly onDidChange = this.#changed.event;
  readonly #models: ModelList;
  readonly #runs: RunStore;
  readonly #log: vscode.LogOutputChannel;
  readonly #subscriptions: { dispose(): void }[] = [];
  readonly #fingerprints = new WeakMap<Model, Promise<string | undefined>>();
  readonly #files = new Map<string, ProfileFile>();
  #sensitivities = new Map<string, ModelSensitivity>();
  #entries: readonly (ProfileEntry & { readonly home: Home | undefined })[] = [];
  #shown = '';
  #looking: Promise<void> | undefined;
  #again = false;
  #timer: NodeJS.Timeout | undefined;

  constructor(models: ModelList, runs: RunStore, log: vscode.LogOutputChannel) {
    this.#models = models;
    this.#runs = runs;
    this.#log = log;
  }

  dispose(): void {
    clearTimeout(this.#timer);
    this.#subscriptions.forEach(subscription => subscription.dispose());
    this.#changed.dispose();
  }

  /** Resolves when the profiles are known. Nothing is looked for before the first call. */
  async ready(): Promise<void> {
    if (this.#subscriptions.length === 0) {
      const watcher = vscode.workspace.createFileSystemWatcher(PATTERN);
      const soon = () => this.#soon(SETTLE);
      this.#subscriptions.push(
        watcher,
        watcher.onDidCreate(soon),
        watcher.onDidChange(soon),
        watcher.onDidDelete(soon),
        this.#models.onDidChange(soon),
        this.#runs.onDidChange(({ added, changed, removed }) => {
          if ([...added, ...changed.map(({ run }) => run), ...removed].some(run => outputOf(run) !== undefined)) {
            this.#soon(SETTLE_RUN);
          }
        }),
      );
      await this.refresh();
    }
    await this.#looking;
  }

  async refresh(): Promise<void> {
    if (this.#looking) {
      this.#again = true;
    } else {
      this.#looking = this.#lookUntilQuiet().finally(() => {
        this.#looking = undefined;
      });
    }
    await this.#looking;
  }

  /** What the newest profile of a model says of its layers. */
  sensitivity(folder: string): ModelSensitivity | undefined {
    return this.#sensitivities.get(folder);
  }

  /** The profiles of a model, those at work first, then the newest. */
  async ofModel(folder: string): Promise<readonly ProfileEntry[]> {
    await this.ready();
    await this.refresh();
    return this.#entries.filter(({ home }) => home?.folder === folder);
  }

  /** What there is of a profile right now. The file is read again only when it is another. */
  async read(file: string): Promise<ProfileEntry> {
    const run = runFor(file, this.#runs.runs);
    const working = run !== undefined && isActive(run.state) && run.summary.profile !== undefined;
    const known = this.#files.get(file);
    // A run that is at work knows more than the file.
    const saved = working ? known : await readProfile(file, known);
    this.#files.set(file, saved);
    const profile = latestOf(saved && 'profile' in saved ? saved.profile : undefined, run);
    return {
      file,
      notes: saved && 'profile' in saved && saved.profile === profile ? saved.notes : [],
      ...(profile && { profile }),
      ...(run && { run }),
      ...(saved && 'problem' in saved && !profile && { problem: saved.problem }),
    };
  }

  /** Where the model of a profile is. A model that is not in the view is looked for where it was. */
  async homeOf({ file, profile, run }: ProfileEntry): Promise<Home | undefined> {
    if (!profile) {
      const folder = run && profiledModel(run);
      return folder === undefined ? undefined : { folder, same: true };
    }
    await this.#models.ready();
    const candidates = await Promise.all(this.#models.entries.flatMap(({ model }) => (model ? [this.#candidate(model)] : [])));
    const home = homeOf(file, profile.model, candidates);
    if (home) {
      return home;
    }
    const folder = path.resolve(path.dirname(file), profile.model.path);
    const isThere = await access(path.join(folder, 'config.json')).then(
      () => true,
      () => false,
    );
    return isThere ? homeOf(file, profile.model, [{ folder, fingerprint: await fingerprintOf(folder).catch(() => undefined) }]) : undefined;
  }

  async #candidate(model: Model): Promise<Candidate> {
    const known = this.#fingerprints.get(model);
    const fingerprint =
      known ??
      fingerprintOf(model.folder).catch((error: unknown) => {
        this.#log.warn(`fingerprint of ${model.folder}: ${messageOf(error)}`);
        return undefined;
      });
    this.#fingerprints.set(model, fingerprint);
    return { folder: model.folder, fingerprint: await fingerprint };
  }

  async #lookUntilQuiet(): Promise<void> {
    do {
      this.#again = false;
      await this.#look().catch((error: unknown) => this.#log.error(`profiles: ${messageOf(error)}`));
    } while (this.#wantedAgain());
  }

  /** A function, because the compiler takes a field for unchanged across an await. */
  #wantedAgain(): boolean {
    return this.#again;
  }

  async #look(): Promise<void> {
    await this.#models.ready();
    const files = await this.#find();
    const entries = [];
    for (const file of files) {
      const entry = await this.read(file);
      if (entry.profile ?? entry.problem ?? entry.run) {
        entries.push({ ...entry, home: await this.homeOf(entry) });
      }
    }
    for (const gone of [...this.#files.keys()].filter(file => !files.has(file))) {
      this.#files.delete(gone);
    }
    entries.sort((a, b) => rank(a) - rank(b) || time(b).localeCompare(time(a), 'en'));
    this.#entries = entries;
    this.#sensitivities = sensitivitiesOf(entries);
    const shown = this.#summary();
    if (shown !== this.#shown) {
      this.#shown = shown;
      this.#changed.fire();
    }
  }

  /** In the workspace, beside models that lie elsewhere, and wherever runs write. */
  async #find(): Promise<ReadonlySet<string>> {
    const found = new Set((await vscode.workspace.findFiles(PATTERN, '**/{node_modules,.git,.venv}/**')).map(uri => uri.fsPath));
    const places = new Set(this.#models.entries.map(({ folder }) => path.dirname(folder)).filter(place => !vscode.workspace.getWorkspaceFolder(vscode.Uri.file(place))));
    for (const place of places) {
      const names = await readdir(place).catch(() => []);
      names.filter(name => name.endsWith(PROFILE_SUFFIX)).forEach(name => found.add(path.join(place, name)));
    }
    for (const run of this.#runs.runs) {
      const output = outputOf(run);
      if (output !== undefined) {
        found.add(output);
      }
    }
    return found;
  }

  /** Changes when the views that follow this list should: not with every figure of a run. */
  #summary(): string {
    const files = this.#entries.map(({ file, home, problem }) => [file, home, problem, this.#files.get(file)?.stamp]);
    const figures = [...this.#sensitivities].map(([folder, { layers }]) => [folder, [...layers].map(([name, { level, rise }]) => `${name} ${level} ${rise.toPrecision(2)}`)]);
    return JSON.stringify([files, figures]);
  }

  #soon(milliseconds: number): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      void this.refresh();
    }, milliseconds);
  }
}

/** Of each model the newest profile that has figures; one of another state of the model says nothing. */
function sensitivitiesOf(entries: readonly (ProfileEntry & { readonly home: Home | undefined })[]): Map<string, ModelSensitivity> {
  const found = new Map<string, ModelSensitivity>();
  for (const { file, profile, home } of entries) {
    if (profile && home?.same && !found.has(home.folder)) {
      const layers = layerSensitivities(profile);
      if (layers.size > 0) {
        found.set(home.folder, { file, layers });
      }
    }
  }
  return found;
}

function rank({ run }: ProfileEntry): number {
  return run && isActive(run.state) ? 0 : 1;
}

function time({ profile, run }: ProfileEntry): string {
  return profile?.created ?? run?.created ?? '';
}
