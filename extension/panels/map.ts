/** The model map: one panel a model, restored from its folder after a reload; a second model beside it on request. */
import path from 'node:path';
import * as vscode from 'vscode';
import type { Model } from '../checkpoint/index.ts';
import type { MapModel, WebviewRequest } from '../protocol/types.ts';
import { messageOf } from '../runs/files.ts';
import type { ModelList } from '../views/modelList.ts';
import type { ProfileList } from '../views/profileList.ts';
import { shortPath } from '../views/text.ts';
import type { LayerSelection } from './layerSelection.ts';
import { mapChoices, mapModel } from './mapData.ts';
import { answerRequests, post } from './requests.ts';
import { RestoredPanels } from './restoredPanels.ts';

export const MAP_VIEW_TYPE = 'bondwise.map';
/** Milliseconds in which changes are gathered. */
const SETTLE = 200;

/** The tree's commands by the page's requests. */
const COMMANDS = {
  tensorizeLayers: 'tensorize',
  quantizeLayers: 'quantize',
  profileLayers: 'profileSensitivity',
  showSensitivity: 'showSensitivity',
  showTensors: 'showTensors',
} as const;

export interface MapActions {
  /** Selects a layer of the model in the Models view. */
  readonly revealLayer: (folder: string, layer: string) => Promise<void>;
  /** What the tree's context menu does with these layers. */
  readonly layerCommand: (command: (typeof COMMANDS)[keyof typeof COMMANDS], folder: string, layers: readonly string[]) => Promise<void>;
  readonly compareTensors: (folder: string, other: string) => Promise<void>;
  /** Tells the user why something that was begun did not work. */
  readonly failed: (error: unknown) => void;
}

export interface MapParts {
  readonly extension: vscode.Uri;
  readonly models: ModelList;
  readonly profiles: ProfileList;
  readonly selection: LayerSelection;
  readonly log: vscode.LogOutputChannel;
  readonly actions: MapActions;
}

export class MapPanels extends RestoredPanels {
  readonly #waiting: Map<string, Waiting>;
  readonly #served: Map<string, MapPanel>;

  constructor(parts: MapParts) {
    const [waiting, served] = [new Map<string, Waiting>(), new Map<string, MapPanel>()];
    super(parts.extension, {
      viewType: MAP_VIEW_TYPE,
      bundle: 'map',
      key: 'folder',
      title: folder => vscode.l10n.t('Map: {0}', path.basename(folder)),
      serve: ({ webview }, folder) => {
        const panel = new MapPanel(folder, webview, parts, waiting.get(folder) ?? {});
        waiting.delete(folder);
        served.set(folder, panel);
        return {
          dispose: () => {
            panel.dispose();
            served.delete(folder);
          },
        };
      },
    });
    this.#waiting = waiting;
    this.#served = served;
  }

  /** Opens the map of a model, or brings it to the front, with some layers selected, or a second model beside it. */
  async showWith(folder: string, wanted: Waiting): Promise<void> {
    const open = this.#served.get(folder);
    if (!open) {
      this.#waiting.set(folder, wanted);
    }
    this.show(folder);
    await open?.want(wanted);
  }

  /** Of the suite in the extension host: what a panel shows. */
  shown(folder: string): { readonly model: MapModel | undefined; readonly beside: MapModel | undefined; readonly selected: readonly string[] } | undefined {
    return this.#served.get(folder)?.shown;
  }
}

interface Waiting {
  readonly layers?: readonly string[];
  readonly beside?: string;
}

class MapPanel implements vscode.Disposable {
  readonly #folder: string;
  readonly #webview: vscode.Webview;
  readonly #parts: MapParts;
  readonly #subscriptions: vscode.Disposable;
  #wanted: Waiting;
  #beside: string | undefined;
  #ready = false;
  #timer: NodeJS.Timeout | undefined;
  #model: MapModel | undefined;
  #second: MapModel | undefined;
  #selected: readonly string[] = [];

  constructor(folder: string, webview: vscode.Webview, parts: MapParts, wanted: Waiting) {
    this.#folder = folder;
    this.#webview = webview;
    this.#parts = parts;
    this.#wanted = wanted;
    const soon = () => this.#soon();
    this.#subscriptions = vscode.Disposable.from(
      parts.models.onDidChange(soon),
      parts.profiles.onDidChange(soon),
      parts.selection.onDidSelect(({ folder: of, layers, by }) => {
        if (by !== this && (of === this.#folder || of === this.#beside)) {
          void this.#tellSelection(of, layers);
        }
      }),
      answerRequests(webview, `map ${folder}`, parts.log, request => this.#do(request)),
    );
  }

  dispose(): void {
    clearTimeout(this.#timer);
    this.#ready = false;
    this.#subscriptions.dispose();
  }

  get shown() {
    return { model: this.#model, beside: this.#second, selected: this.#selected };
  }

  async want(wanted: Waiting): Promise<void> {
    this.#wanted = wanted;
    if (this.#ready) {
      await this.#send();
    }
  }

  async #do({ method, argument, layers }: WebviewRequest): Promise<void> {
    const { actions, selection } = this.#parts;
    const names = layers ?? [];
    switch (method) {
      case 'ready':
        this.#beside ??= argument ?? undefined;
        this.#ready = true;
        return this.#send();
      case 'showBeside':
        this.#beside = argument === '' ? undefined : (argument ?? undefined);
        return this.#send();
      case 'selectLayers':
        this.#selected = names;
        return selection.select(this.#mine(argument), names, this);
      case 'revealLayer':
        return actions.revealLayer(this.#mine(argument), names[0] ?? '');
      case 'tensorizeLayers':
      case 'quantizeLayers':
      case 'profileLayers':
      case 'showSensitivity':
      case 'showTensors':
        this.#begin(actions.layerCommand(COMMANDS[method], this.#mine(argument), names));
        return;
      case 'compareTensors':
        this.#begin(actions.compareTensors(this.#folder, this.#mine(argument)));
        return;
      case 'copyText':
        await vscode.env.clipboard.writeText(names.join('\n'));
        return;
      default:
        throw new Error(`This panel does not serve ${method}.`);
    }
  }

  /** What asks the user something takes longer than a page waits for an answer. */
  #begin(work: Promise<void>): void {
    work.catch((error: unknown) => this.#parts.actions.failed(error));
  }

  /** Only the two models of this panel: a page must not reach others. */
  #mine(folder: string | null | undefined): string {
    if (folder !== this.#folder && (folder !== this.#beside || folder === undefined)) {
      throw new Error(`${folder ?? 'nothing'} is not a model of this map.`);
    }
    return folder;
  }

  #soon(): void {
    if (this.#ready) {
      this.#timer ??= setTimeout(() => {
        this.#timer = undefined;
        this.#send().catch((error: unknown) => this.#parts.log.warn(`map ${this.#folder}: ${messageOf(error)}`));
      }, SETTLE);
    }
  }

  /** @throws when the model is not there or cannot be read. */
  async #send(): Promise<void> {
    const { models, profiles } = this.#parts;
    await profiles.ready();
    const wanted = this.#wanted;
    this.#wanted = {};
    this.#beside = wanted.beside ?? this.#beside;
    const model = await this.#read(this.#folder);
    let [beside, problem]: [MapModel | undefined, string | undefined] = [undefined, undefined];
    if (this.#beside !== undefined) {
      try {
        beside = this.#map(await this.#read(this.#beside));
      } catch (error) {
        problem = messageOf(error);
      }
    }
    const all = models.entries.flatMap(({ model: other }) => (other ? [other] : []));
    [this.#model, this.#second] = [this.#map(model), beside];
    if (!this.#ready) {
      return;
    }
    await post(this.#webview, { type: 'map', model: this.#model, beside: beside ?? null, choices: mapChoices(model, all, shortPath), problem: problem ?? null });
    if (wanted.layers) {
      await this.#tellSelection(this.#folder, wanted.layers);
    }
  }

  async #read(folder: string): Promise<Model> {
    const { models } = this.#parts;
    await models.ready();
    const entry = models.get(folder) ?? (await models.add(folder));
    if (!entry?.model) {
      throw new Error(entry?.problem?.message ?? vscode.l10n.t('{0} is not there any more.', shortPath(folder)));
    }
    return entry.model;
  }

  #map(model: Model): MapModel {
    return mapModel(model, this.#parts.profiles.sensitivity(model.folder));
  }

  async #tellSelection(folder: string, layers: readonly string[]): Promise<void> {
    this.#selected = layers;
    if (this.#ready) {
      await post(this.#webview, { type: 'selection', folder, layers: [...layers] });
    }
  }
}
