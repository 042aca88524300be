/**
 * What the extension Bondwise gives to other extensions. Copy this file into yours:
 *
 *     const bondwise = vscode.extensions.getExtension<BondwiseApi>('bondwise.bondwise');
 *     const api = await bondwise?.activate();
 *     if (api?.version === 1) { … }
 *
 * Within a version things are only added. Folders and files are absolute paths on the machine that the extension runs on; sizes are bytes.
 */
import type { Event } from 'vscode';

export interface BondwiseApi {
  readonly version: 1;

  /** The model folders of this window, those that cannot be read included. */
  getModels(): Promise<readonly ModelInfo[]>;

  /** Fires when a model was added, removed or changed on disk. */
  readonly onDidChangeModels: Event<void>;

  /**
   * The layers of a model's blocks in their order, from headers alone; the folder need not be in the Models view.
   * @throws with a message for the user where the folder is no model.
   */
  getLayers(folder: string): Promise<readonly LayerInfo[]>;

  /** The sensitivity profiles of a model in the Models view, the newest first. */
  getProfiles(folder: string): Promise<readonly ProfileInfo[]>;

  /** Every run of the workspace, active ones first, then the newest. */
  getRuns(): readonly RunInfo[];

  /** Fires with the runs that are new or have got further, at most a few times a second. */
  readonly onDidChangeRuns: Event<readonly RunInfo[]>;

  /**
   * Starts a run, as the commands do: the user is asked before a model's own code is used, and when the engine has to be set up.
   * @returns the run; undefined where the user did not want what it needs.
   * @throws where the request does not follow the schema, and in untrusted workspaces.
   */
  startRun(request: StartRequest): Promise<RunInfo | undefined>;

  /** Asks a run to stop; it keeps what it needs to be resumed. @throws where there is no such run. */
  cancelRun(directory: string): Promise<void>;
}

export interface ModelInfo {
  readonly folder: string;
  readonly name: string;
  /** Why it cannot be read; then nothing else is known. */
  readonly problem?: string;
  /** `LlamaForCausalLM` and the like. */
  readonly architecture?: string;
  readonly parameters?: number;
  readonly bytes?: number;
  readonly blocks?: number;
  /** The original's folder, of a model that Bondwise made. */
  readonly madeFrom?: string;
}

export interface LayerInfo {
  /** Module path, such as `model.layers.0.mlp.up_proj`. */
  readonly name: string;
  readonly block: number;
  /** Of the weight: out × in. */
  readonly shape: readonly number[];
  /** As safetensors writes it, such as `BF16`. */
  readonly dtype: string;
  readonly parameters: number;
  readonly bytes: number;
  readonly state: 'dense' | 'mpo' | 'quantized' | 'other';
  /** Bond dimensions, of an MPO. */
  readonly bondDims?: readonly number[];
}

export interface ProfileInfo {
  /** NAME.sensitivity.json */
  readonly file: string;
  readonly complete: boolean;
  /** For each layer what compressing it to about half its parameters costs; the most sensitive first. */
  readonly layers: readonly {
    readonly name: string;
    /** Rise of the mean loss in nats per token when this layer alone is compressed. */
    readonly rise: number;
    /** Standard error of a measured rise. */
    readonly error?: number;
    readonly chi: number;
    readonly keep: number;
    readonly source: 'measured' | 'predicted';
  }[];
}

export interface RunInfo {
  /** Name of the directory. */
  readonly id: string;
  /** Holds run.json, events.ndjson, status.json, log.txt and, in the end, result.json. */
  readonly directory: string;
  readonly kind?: RunKind;
  readonly title: string;
  readonly state: 'queued' | 'running' | 'cancelling' | 'cancelled' | 'failed' | 'interrupted' | 'done' | 'invalid';
  /** ISO 8601, UTC; empty where it cannot be read. */
  readonly created: string;
  readonly phase?: string;
  readonly progress?: {
    readonly done: number;
    readonly total: number;
    readonly unit: string;
    /** Seconds. */
    readonly eta?: number;
  };
  readonly error?: { readonly message: string; readonly remedy?: string };
  /** What it makes: a model's folder, or the file of a profile or a benchmark. */
  readonly output?: string;
  /** Of a run that is done: result.json. */
  readonly result?: Readonly<Record<string, unknown>>;
}

export type RunKind = 'tensorize' | 'heal' | 'quantize' | 'profile' | 'perplexity' | 'benchmark' | 'export' | 'sample-model';

/** As in run.json; extension/docs/files.md has the options of each kind. */
export interface StartRequest {
  readonly kind: RunKind;
  /** What a person reads in the Runs view. */
  readonly title: string;
  /** The model's folder, for all kinds but benchmark and sample-model. */
  readonly model?: string;
  readonly options: Readonly<Record<string, unknown>>;
  /** Default: the setting bondwise.device. */
  readonly device?: string;
  /** Default: 0. */
  readonly seed?: number;
}
