/** One report: what it is told, as the benchmark grows, and what it asks for. */
import path from 'node:path';
import * as vscode from 'vscode';
import { BENCHMARK_SUFFIX, changedModels, readReport } from '../benchmark/read.ts';
import type { Benchmark, HostMessage, RunStatus, WebviewRequest } from '../protocol/types.ts';
import { messageOf } from '../runs/files.ts';
import { isActive } from '../runs/run.ts';
import type { RunStore } from '../runs/store.ts';
import { answerRequests, post } from './requests.ts';
import { saveFile } from './saveFile.ts';

export interface ReportActions {
  /** Asks for more models or tasks for this report. */
  readonly benchmark: (file: string) => Promise<void>;
  readonly openFolder: (folder: string) => Promise<void>;
  readonly cancelRun: (directory: string) => Promise<void>;
  readonly showRun: (directory: string) => Promise<void>;
  /** Tells the user why something that was begun did not work. */
  readonly failed: (error: unknown) => void;
}

interface PanelParts {
  readonly runs: RunStore;
  readonly log: vscode.LogOutputChannel;
  readonly actions: ReportActions;
}

/** Milliseconds between messages. */
const PACE = 250;

export class ReportPanel implements vscode.Disposable {
  readonly file: string;
  readonly #webview: vscode.Webview;
  readonly #parts: PanelParts;
  readonly #subscriptions: vscode.Disposable;
  #ready = false;
  #sent: Benchmark | undefined;
  #told = '';
  #status: RunStatus | null = null;
  #timer: NodeJS.Timeout | undefined;
  #sending: Promise<void> = Promise.resolve();

  constructor(file: string, webview: vscode.Webview, parts: PanelParts) {
    this.file = file;
    this.#webview = webview;
    this.#parts = parts;
    const watcher = vscode.workspace.createFileSystemWatcher(new vscode.RelativePattern(vscode.Uri.file(path.dirname(file)), path.basename(file)));
    const soon = () => this.#soon();
    this.#subscriptions = vscode.Disposable.from(
      watcher,
      watcher.onDidCreate(soon),
      watcher.onDidChange(soon),
      watcher.onDidDelete(soon),
      parts.runs.onDidChange(soon),
      answerRequests(webview, `report ${file}`, parts.log, request => this.#do(request)),
    );
  }

  dispose(): void {
    clearTimeout(this.#timer);
    this.#ready = false;
    this.#subscriptions.dispose();
  }

  /** What the view has been told. */
  get shown(): Benchmark | undefined {
    return this.#sent;
  }

  async #do({ method, argument, name }: WebviewRequest): Promise<void> {
    const { actions, runs } = this.#parts;
    switch (method) {
      case 'ready':
        return this.#start();
      case 'benchmarkModels':
        this.#begin(actions.benchmark(this.file));
        return;
      case 'openFolder': {
        // Only what the report itself names.
        const model = this.#sent?.models?.find(({ path: place }) => place === argument);
        if (!model) {
          throw new Error(vscode.l10n.t('{0} is not in this report.', argument ?? ''));
        }
        return actions.openFolder(path.resolve(path.dirname(this.file), model.path));
      }
      case 'cancelRun':
      case 'showRun': {
        const { run } = await readReport(this.file, runs.runs);
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

  /** A view that has been drawn anew knows nothing. @throws when there is nothing to show and no run that will bring it. */
  async #start(): Promise<void> {
    this.#ready = true;
    this.#told = '';
    this.#status = null;
    // After a reload the runs may not have been looked at yet.
    await this.#parts.runs.refresh();
    const { benchmark, problem, run } = await readReport(this.file, this.#parts.runs.runs);
    if (!benchmark && !(run && isActive(run.state))) {
      throw new Error(problem ?? run?.status?.error?.message ?? vscode.l10n.t('{0} is not there. Benchmark the models, or open the report from where it is now.', path.basename(this.file)));
    }
    await this.#flush();
  }

  #soon(): void {
    if (this.#ready) {
      this.#timer ??= setTimeout(() => {
        this.#timer = undefined;
        this.#flush().catch((error: unknown) => this.#parts.log.warn(`report ${this.file}: ${messageOf(error)}`));
      }, PACE);
    }
  }

  /** One after the other, so that what is sent last is the newest. */
  async #flush(): Promise<void> {
    this.#sending = this.#sending.catch(() => undefined).then(() => this.#send());
    await this.#sending;
  }

  async #send(): Promise<void> {
    const { benchmark, run } = await readReport(this.file, this.#parts.runs.runs);
    if (benchmark) {
      const notes = isActive(run?.state ?? 'done') ? [] : await changedModels(this.file, benchmark);
      const message: HostMessage = { type: 'benchmark', name: path.basename(this.file, BENCHMARK_SUFFIX), benchmark, notes: [...notes] };
      const told = JSON.stringify(message);
      if (told !== this.#told) {
        this.#told = told;
        this.#sent = benchmark;
        await this.#post(message);
      }
    }
    // What has ended well is told by its figures.
    const status = run?.state === 'done' ? null : (run?.status ?? null);
    if (status !== this.#status) {
      this.#status = status;
      await this.#post({ type: 'profileRun', status });
    }
  }

  async #post(message: HostMessage): Promise<void> {
    if (this.#ready) {
      await post(this.#webview, message);
    }
  }
}
