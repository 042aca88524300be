/** One heatmap: what it is told, as the profile grows, and what it asks for. */
import path from 'node:path';
import * as vscode from 'vscode';
import type { Method } from '../plan/choices.ts';
import { keptBy, resultOf } from '../plan/overlay.ts';
import { PLAN_SUFFIX } from '../plan/planFile.ts';
import { changesSince } from '../profile/changes.ts';
import type { Home } from '../profile/matching.ts';
import type { HostMessage, PlanResult, RunStatus, Sensitivity, WebviewRequest } from '../protocol/types.ts';
import { messageOf } from '../runs/files.ts';
import { isActive } from '../runs/run.ts';
import type { RunStore } from '../runs/store.ts';
import type { ProfileEntry, ProfileList } from '../views/profileList.ts';
import type { LayerSelection } from './layerSelection.ts';
import type { PlanOverlays, ShownPlan } from './planOverlays.ts';
import { answerRequests, post } from './requests.ts';
import { saveFile } from './saveFile.ts';

/** What a heatmap can have done. All that asks the user something returns before it is answered. */
/** What of a budget the exchange curve hangs on. */
export interface Asked {
  readonly exclude?: readonly string[];
  readonly method?: Method;
}

export interface SensitivityActions {
  /** Selects a layer of the model in the Models view. */
  readonly revealLayer: (folder: string, layer: string) => Promise<void>;
  readonly tensorize: (folder: string, layers: readonly string[]) => Promise<void>;
  /** @param layers all where there are none. */
  readonly profile: (folder: string, layers: readonly string[], profile: string) => Promise<void>;
  /** @param target of the budget, such as `60%`; the user is asked where there is none. */
  readonly plan: (folder: string, profile: string, target: string | undefined) => Promise<void>;
  /** What every budget would give, without asking anything; undefined where there is no engine. */
  readonly exchange: (folder: string, profile: string, asked: Asked) => Promise<PlanResult | undefined>;
  readonly exclude: (folder: string, profile: string, layers: readonly string[]) => Promise<void>;
  readonly cancelRun: (directory: string) => Promise<void>;
  readonly showRun: (directory: string) => Promise<void>;
  /** Tells the user why something that was begun did not work. */
  readonly failed: (error: unknown) => void;
}

export interface PanelParts {
  readonly profiles: ProfileList;
  readonly runs: RunStore;
  readonly selection: LayerSelection;
  readonly plans: PlanOverlays;
  readonly log: vscode.LogOutputChannel;
  readonly actions: SensitivityActions;
}

/** Milliseconds between messages: figures may come many a second. */
const PACE = 250;
/** What a view knows of plans before it is told of one. */
const NO_PLAN = JSON.stringify([null, null]);

export class SensitivityPanel implements vscode.Disposable {
  readonly file: string;
  readonly #webview: vscode.Webview;
  readonly #parts: PanelParts;
  readonly #subscriptions: vscode.Disposable;
  #home: Home | undefined;
  #ready = false;
  #sent: Sensitivity | undefined;
  #notes = '';
  #status: RunStatus | null = null;
  #selected: readonly string[] | undefined;
  /** What the view has been told of a plan. */
  #plan = NO_PLAN;
  #planTurn = 0;
  readonly #exchanges = new WeakMap<Sensitivity, Map<string, Promise<PlanResult | undefined>>>();
  #isGrowing = false;
  #timer: NodeJS.Timeout | undefined;
  #sending: Promise<void> = Promise.resolve();

  constructor(file: string, webview: vscode.Webview, parts: PanelParts, selected: readonly string[] | undefined) {
    this.file = file;
    this.#webview = webview;
    this.#parts = parts;
    this.#selected = selected;
    // Not the list's own watcher: the file may lie outside the workspace.
    const watcher = vscode.workspace.createFileSystemWatcher(new vscode.RelativePattern(vscode.Uri.file(path.dirname(file)), path.basename(file)));
    const soon = () => this.#soon();
    this.#subscriptions = vscode.Disposable.from(
      watcher,
      watcher.onDidCreate(soon),
      watcher.onDidChange(soon),
      watcher.onDidDelete(soon),
      parts.profiles.onDidChange(soon),
      parts.runs.onDidChange(soon),
      parts.selection.onDidSelect(({ folder, layers, by }) => {
        if (by !== this && folder === this.#home?.folder) {
          void this.select(layers);
        }
      }),
      parts.plans.onDidChange(() => void this.#tellPlan()),
      answerRequests(webview, `sensitivity ${file}`, parts.log, request => this.#do(request)),
    );
  }

  dispose(): void {
    clearTimeout(this.#timer);
    this.#ready = false;
    this.#subscriptions.dispose();
  }

  /** The layers that are selected, as far as either side has said. */
  get selected(): readonly string[] {
    return this.#selected ?? [];
  }

  /** What the view has been told. */
  get shown(): Sensitivity | undefined {
    return this.#sent;
  }

  /** Selects layers in the heatmap; those that the profile does not cover are left out. */
  async select(layers: readonly string[]): Promise<void> {
    this.#selected = layers;
    const covered = new Set(this.#sent?.layers.map(layer => layer.name));
    await this.#post({ type: 'selection', layers: layers.filter(layer => covered.has(layer)) });
  }

  async #do({ method, argument, name, layers = [] }: WebviewRequest): Promise<void> {
    const { actions, profiles, runs } = this.#parts;
    switch (method) {
      case 'ready':
        return this.#start();
      case 'selectLayers':
        this.#selected = this.#covered(layers);
        return this.#parts.selection.select(await this.#folder(), this.#selected, this);
      case 'revealLayer':
        return actions.revealLayer(await this.#folder(), argument ?? '');
      case 'tensorizeLayers':
        this.#begin(actions.tensorize(await this.#folder(), this.#someOf(layers)));
        return;
      case 'profileLayers':
        this.#begin(actions.profile(await this.#folder(), this.#covered(layers), this.file));
        return;
      case 'planCompression':
        this.#begin(actions.plan(await this.#folder(), this.file, argument ?? undefined));
        return;
      case 'excludeLayers':
        this.#begin(actions.exclude(await this.#folder(), this.file, this.#someOf(layers)));
        return;
      case 'cancelRun':
      case 'showRun': {
        const { run } = await profiles.read(this.file);
        if (!run || (method === 'cancelRun' && !isActive(run.state))) {
          throw new Error(vscode.l10n.t('No run is at work on {0}.', path.basename(this.file)));
        }
        await actions[method](run.directory);
        return runs.refresh();
      }
      case 'copyText':
        await vscode.env.clipboard.writeText(argument ?? '');
        return;
      case 'saveFile':
        this.#begin(saveFile(path.dirname(this.file), name ?? '', argument ?? ''));
        return;
      default:
        throw new Error(`This panel does not serve ${method}.`);
    }
  }

  /** What asks the user something takes longer than a page waits for an answer. */
  #begin(work: Promise<void>): void {
    work.catch((error: unknown) => this.#parts.actions.failed(error));
  }

  #covered(layers: readonly string[] | null): readonly string[] {
    const known = new Set(this.#sent?.layers.map(layer => layer.name));
    return (layers ?? []).filter(layer => known.has(layer));
  }

  #someOf(layers: readonly string[] | null): readonly string[] {
    const covered = this.#covered(layers);
    if (covered.length === 0) {
      throw new Error(vscode.l10n.t('Select layers of this profile first.'));
    }
    return covered;
  }

  async #folder(): Promise<string> {
    this.#home ??= await this.#parts.profiles.homeOf(await this.#parts.profiles.read(this.file));
    if (!this.#home) {
      throw new Error(vscode.l10n.t('The model of this profile, {0}, is not there. Add it to the Models view.', this.#sent?.model.name ?? ''));
    }
    return this.#home.folder;
  }

  /** A view that has been drawn anew knows nothing. @throws when there is nothing to show and no run that will bring it. */
  async #start(): Promise<void> {
    this.#ready = true;
    this.#sent = undefined;
    this.#plan = NO_PLAN;
    this.#status = null;
    // After a reload the runs may not have been looked at yet.
    await this.#parts.runs.refresh();
    const entry = await this.#parts.profiles.read(this.file);
    if (!entry.profile && !(entry.run && isActive(entry.run.state))) {
      throw new Error(entry.problem ?? entry.run?.status?.error?.message ?? vscode.l10n.t('{0} is not there. Profile the model, or open the profile from where it is now.', path.basename(this.file)));
    }
    await this.#flush();
    if (this.#selected) {
      await this.select(this.#selected);
    }
  }

  #soon(): void {
    if (this.#ready) {
      this.#timer ??= setTimeout(() => {
        this.#timer = undefined;
        this.#flush().catch((error: unknown) => this.#parts.log.warn(`sensitivity ${this.file}: ${messageOf(error)}`));
      }, PACE);
    }
  }

  /** One after the other, so that what is sent is what has been compared. */
  async #flush(): Promise<void> {
    this.#sending = this.#sending.catch(() => undefined).then(() => this.#send());
    await this.#sending;
  }

  async #send(): Promise<void> {
    const entry = await this.#parts.profiles.read(this.file);
    const { profile, run } = entry;
    if (profile) {
      const changes = this.#sent ? changesSince(this.#sent, profile) : 'whole';
      const home = changes === 'whole' || !isActive(run?.state ?? 'done') ? await this.#parts.profiles.homeOf(entry) : this.#home;
      this.#home = home;
      const notes = [...entry.notes, ...homeNotes(profile, home)];
      const isWhole = changes === 'whole' || notes.join('\n') !== this.#notes;
      if (isWhole) {
        await this.#post({ type: 'sensitivity', profile, notes });
      } else if (changes) {
        await this.#post(changes);
      }
      this.#notes = notes.join('\n');
      this.#sent = profile;
      this.#isGrowing = isActive(run?.state ?? 'done');
      if (isWhole) {
        void this.#tellPlan();
      }
    }
    await this.#tellStatus(entry);
  }

  async #tellStatus({ run }: ProfileEntry): Promise<void> {
    // What has ended well is told by its figures.
    const status = run?.state === 'done' ? null : (run?.status ?? null);
    if (status !== this.#status) {
      this.#status = status;
      await this.#post({ type: 'profileRun', status });
    }
  }

  /** Lays over the heatmap what the plan files tell, or takes it away. What other sizes would give follows when the engine has said it. */
  async #tellPlan(): Promise<void> {
    const profile = this.#sent;
    if (!profile) {
      return;
    }
    const turn = ++this.#planTurn;
    try {
      const folder = this.#home?.folder;
      const shown = await this.#parts.plans.shownOn(this.file, folder);
      if (turn !== this.#planTurn) {
        return;
      }
      const layers = shown ? keptBy(shown.plan, profile) : null;
      await this.#postPlan(shown, layers, null);
      const answer = shown?.plan.budget && folder !== undefined && !this.#isGrowing ? await this.#exchangeOf(profile, folder, shown.plan.budget) : undefined;
      if (turn === this.#planTurn && shown && layers && answer) {
        await this.#postPlan(shown, layers, resultOf(shown.plan, layers, profile, answer) ?? null);
      }
    } catch (error) {
      this.#parts.log.warn(`plan on ${this.file}: ${messageOf(error)}`);
    }
  }

  async #postPlan(shown: ShownPlan | undefined, layers: Readonly<Record<string, number>> | null, plan: PlanResult | null): Promise<void> {
    const name = shown ? path.basename(shown.file, PLAN_SUFFIX) : null;
    const told = JSON.stringify([name, layers]);
    // While the layers are the same, what was said of other sizes holds.
    if (told === this.#plan && plan === null) {
      return;
    }
    this.#plan = told;
    await this.#post({ type: 'plan', name, layers: layers && { ...layers }, plan });
  }

  /** Asked once for each state of the profile. */
  #exchangeOf(profile: Sensitivity, folder: string, { exclude, method }: Asked): Promise<PlanResult | undefined> {
    const known = this.#exchanges.get(profile) ?? new Map<string, Promise<PlanResult | undefined>>();
    const key = [method, ...(exclude ?? [])].join('\n');
    const answer = known.get(key) ?? this.#parts.actions.exchange(folder, this.file, { exclude: exclude ?? [], ...(method && { method }) });
    this.#exchanges.set(profile, known.set(key, answer));
    return answer;
  }

  async #post(message: HostMessage): Promise<void> {
    if (this.#ready) {
      await post(this.#webview, message);
    }
  }
}

function homeNotes({ model }: Sensitivity, home: Home | undefined): readonly string[] {
  if (!home) {
    return [vscode.l10n.t('The model of this profile, {0}, was at {1} and is not there now.', model.name, model.path)];
  }
  return home.same ? [] : [vscode.l10n.t('{0} has changed since it was profiled: its configuration or tensors are others, so these figures may not hold for it.', model.name)];
}
