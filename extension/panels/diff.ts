/** How the tensors of two models differ: one panel a pair of folders. The engine computes it while the panel is open. */
import path from 'node:path';
import * as vscode from 'vscode';
import { EngineError, runEngine } from '../engine/command.ts';
import type { Environment, Missing } from '../engine/find.ts';
import type { HostMessage, MapChoice, TensorChange, TensorDiffLine, WebviewRequest } from '../protocol/types.ts';
import { isTensorDiffLine } from '../protocol/validate.js';
import { messageOf, parseJson } from '../runs/files.ts';
import { shortPath } from '../views/text.ts';
import { answerRequests, post } from './requests.ts';
import { RestoredPanels } from './restoredPanels.ts';

export const DIFF_VIEW_TYPE = 'bondwise.diff';
/** Milliseconds between messages: tensors may come many a second. */
const PACE = 200;
/** Of the two folders in a panel's place. */
const SEPARATOR = '\n';

export interface DiffParts {
  readonly extension: vscode.Uri;
  readonly engine: { find(): Promise<Environment | Missing> };
  readonly log: vscode.LogOutputChannel;
}

type Told = Extract<HostMessage, { type: 'diff' }>;

export class DiffPanels extends RestoredPanels {
  readonly #wanted: Set<string>;

  constructor(parts: DiffParts) {
    const wanted = new Set<string>();
    super(parts.extension, {
      viewType: DIFF_VIEW_TYPE,
      bundle: 'diff',
      key: 'pair',
      title: pair => vscode.l10n.t('Tensors: {0} ↔ {1}', ...foldersOf(pair).map(folder => path.basename(folder))),
      // After a reload nothing is read unasked: two models may be hundreds of gigabytes.
      serve: ({ webview }, pair) => new DiffPanel(pair, webview, parts, wanted.delete(pair)),
    });
    this.#wanted = wanted;
  }

  /** @param model what changes are relative to. */
  compare(model: string, other: string): void {
    const pair = [model, other].join(SEPARATOR);
    if (!this.open.includes(pair)) {
      this.#wanted.add(pair);
    }
    this.show(pair);
  }
}

function foldersOf(pair: string): [string, string] {
  const [model = '', other = ''] = pair.split(SEPARATOR);
  return [model, other];
}

class DiffPanel implements vscode.Disposable {
  readonly #folders: [string, string];
  readonly #webview: vscode.Webview;
  readonly #parts: DiffParts;
  readonly #requests: vscode.Disposable;
  #wanted: boolean;
  #work: AbortController | undefined;
  #timer: NodeJS.Timeout | undefined;
  #state: Told['state'] = 'waiting';
  #tensors: TensorChange[] = [];
  /** Of `#tensors`, how many were told. */
  #sent = 0;
  #progress: Pick<Told, 'done' | 'total' | 'relative' | 'problem'> = { done: 0, total: 0 };

  constructor(pair: string, webview: vscode.Webview, parts: DiffParts, wanted: boolean) {
    this.#folders = foldersOf(pair);
    this.#webview = webview;
    this.#parts = parts;
    this.#wanted = wanted;
    this.#requests = answerRequests(webview, `diff ${this.#folders.join(' ')}`, parts.log, request => this.#do(request));
  }

  dispose(): void {
    clearTimeout(this.#timer);
    this.#work?.abort();
    this.#requests.dispose();
  }

  async #do({ method }: WebviewRequest): Promise<void> {
    switch (method) {
      case 'ready':
        await this.#tell(true);
        if (this.#wanted) {
          this.#wanted = false;
          void this.#compute();
        }
        return;
      case 'computeDiff':
        // Longer than a page waits for an answer: what comes of it are messages of their own.
        void this.#compute();
        return;
      case 'cancelDiff':
        this.#work?.abort();
        return;
      default:
        throw new Error(`This panel does not serve ${method}.`);
    }
  }

  async #compute(): Promise<void> {
    this.#work?.abort();
    const work = (this.#work = new AbortController());
    [this.#state, this.#tensors, this.#progress] = ['computing', [], { done: 0, total: 0 }];
    await this.#tell(true);
    try {
      const environment = await this.#engine();
      const answer = await runEngine(environment, ['diff', ...this.#folders], isTensorDiffLine, { signal: work.signal, onLine: line => this.#take(line, work) });
      if (answer.kind === 'diff' && work === this.#work) {
        [this.#state, this.#tensors] = ['done', answer.tensors];
        this.#progress = { ...this.#progress, relative: answer.relative };
        await this.#tell(true);
      }
    } catch (error) {
      if (work === this.#work) {
        this.#state = work.signal.aborted ? 'cancelled' : 'failed';
        this.#progress = { ...this.#progress, problem: work.signal.aborted ? null : error instanceof EngineError ? error.message.replace(/^bondwise: /, '') : messageOf(error) };
        await this.#tell(false);
      }
    }
  }

  #take(line: string, work: AbortController): void {
    const read = parseJson<TensorDiffLine>(line, 'a line of the engine', isTensorDiffLine);
    if (work !== this.#work || 'problem' in read || read.value.kind !== 'step') {
      return;
    }
    const { tensor, done, total } = read.value;
    this.#tensors.push(tensor);
    this.#progress = { done, total };
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      void this.#tell(false);
    }, PACE);
  }

  async #tell(whole: boolean): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const added = whole ? this.#tensors : this.#tensors.slice(this.#sent);
    this.#sent = this.#tensors.length;
    const [model, other] = this.#folders.map((folder): MapChoice => ({ name: path.basename(folder), path: folder, hint: shortPath(folder) }));
    if (model && other) {
      await post(this.#webview, { type: 'diff', model, other, state: this.#state, added: [...added], whole, ...this.#progress });
    }
  }

  async #engine(): Promise<Environment> {
    if (!vscode.workspace.isTrusted) {
      throw new Error(vscode.l10n.t('Values are read by the engine, which runs in trusted workspaces only.'));
    }
    const found = await this.#parts.engine.find();
    if (found.python === undefined) {
      throw new Error(vscode.l10n.t('Values are read by the engine, which is not set up yet: run “Bondwise: Set Up Engine”, then compare again.'));
    }
    return found;
  }
}
