/** The host's side of the run panel: one panel a run, which follows the run directory, whoever started the run. */
import * as vscode from 'vscode';
import { changesSince, type History } from '../runs/healFold.ts';
import type { HostMessage, RunView, WebviewRequest } from '../protocol/types.ts';
import { messageOf } from '../runs/files.ts';
import { errorOf, type Run } from '../runs/run.ts';
import type { RunStore } from '../runs/store.ts';
import { oneLine } from '../views/text.ts';
import { answerRequests, post } from './requests.ts';
import { RestoredPanels } from './restoredPanels.ts';

export const RUN_VIEW_TYPE = 'bondwise.run';

/** What the panel's buttons do: the commands of the Runs view, which tell what went wrong by themselves. */
const COMMANDS: Partial<Record<WebviewRequest['method'], string>> = {
  cancelRun: 'cancelRun',
  resumeRun: 'resumeRun',
  finishRun: 'finishRun',
  showLog: 'showRunLog',
  showModel: 'showRunModel',
  compare: 'compareRun',
  copyCommand: 'copyRunCommand',
  showRun: 'revealRun',
};

/** Milliseconds between messages: a status comes several times a second. */
const PACE = 250;

export interface RunPanelParts {
  readonly extension: vscode.Uri;
  readonly runs: RunStore;
  readonly log: vscode.LogOutputChannel;
}

export class RunPanels extends RestoredPanels {
  constructor({ extension, runs, log }: RunPanelParts) {
    super(extension, {
      viewType: RUN_VIEW_TYPE,
      bundle: 'run',
      key: 'directory',
      title: directory => titleOf(runs.get(directory)),
      serve: (panel, directory) => new RunPanel(panel, directory, runs, log),
    });
  }
}

class RunPanel {
  readonly #panel: vscode.WebviewPanel;
  readonly #directory: string;
  readonly #runs: RunStore;
  readonly #log: vscode.LogOutputChannel;
  readonly #subscriptions: vscode.Disposable;
  #ready = false;
  #sent: Run | undefined;
  #history: History | undefined;
  #timer: NodeJS.Timeout | undefined;
  #sending: Promise<void> = Promise.resolve();

  constructor(panel: vscode.WebviewPanel, directory: string, runs: RunStore, log: vscode.LogOutputChannel) {
    this.#panel = panel;
    this.#directory = directory;
    this.#runs = runs;
    this.#log = log;
    this.#subscriptions = vscode.Disposable.from(
      runs.onDidChange(() => this.#soon()),
      answerRequests(panel.webview, `run ${directory}`, log, request => this.#do(request)),
    );
  }

  dispose(): void {
    clearTimeout(this.#timer);
    this.#ready = false;
    this.#subscriptions.dispose();
  }

  async #do({ method }: WebviewRequest): Promise<void> {
    const command = COMMANDS[method];
    if (command !== undefined) {
      // Not awaited: it may ask the user something, or wait for a process to end.
      void vscode.commands.executeCommand(`bondwise.${command}`, this.#directory);
      return;
    }
    if (method !== 'ready') {
      throw new Error(`This panel does not serve ${method}.`);
    }
    // A page that has been loaded anew knows nothing.
    this.#ready = true;
    this.#sent = undefined;
    this.#history = undefined;
    // After a reload of the window the runs may not have been looked at yet.
    await this.#runs.refresh();
    if (!this.#runs.get(this.#directory)) {
      throw new Error(vscode.l10n.t('There is no run in {0} any more. It was deleted or moved, or its folder is not one of this workspace.', this.#directory));
    }
    await this.#flush();
  }

  #soon(): void {
    if (this.#ready) {
      this.#timer ??= setTimeout(() => {
        this.#timer = undefined;
        this.#flush().catch((error: unknown) => this.#log.warn(`run ${this.#directory}: ${messageOf(error)}`));
      }, PACE);
    }
  }

  /** One after the other, so that what is sent is what has been compared. */
  async #flush(): Promise<void> {
    this.#sending = this.#sending.catch(() => undefined).then(() => this.#send());
    await this.#sending;
  }

  async #send(): Promise<void> {
    const run = this.#runs.get(this.#directory);
    if (!run || run === this.#sent) {
      return;
    }
    this.#sent = run;
    this.#panel.title = titleOf(run);
    await this.#post({ type: 'run', run: viewOf(run) });
    const { heal } = run.summary;
    const changes = heal && (this.#history ? changesSince(this.#history, heal) : 'whole');
    this.#history = heal;
    if (heal && changes === 'whole') {
      await this.#post({ type: 'heal', history: heal, whole: true });
    } else if (changes && changes !== 'whole') {
      await this.#post({ type: 'heal', history: changes, whole: false });
    }
  }

  async #post(message: HostMessage): Promise<void> {
    if (this.#ready) {
      await post(this.#panel.webview, message);
    }
  }
}

/** What the page is told of a run; paths are absolute. */
export function viewOf(run: Run): RunView {
  const { directory, title, state, status, request, result, summary } = run;
  const { estimate, evaluations, warnings, starts, started } = summary;
  return {
    directory,
    title,
    state: state === 'invalid' ? 'failed' : state,
    status: status ?? null,
    request: request ?? null,
    result: result ?? null,
    estimate: estimate ?? null,
    evaluations: { ...evaluations },
    warnings: [...warnings],
    error: state === 'done' ? null : (errorOf(run) ?? (run.problem === undefined ? null : { message: run.problem })),
    starts,
    device: started?.device ?? null,
    stopping: run.finishing ?? false,
  };
}

function titleOf(run: Run | undefined): string {
  return run ? oneLine(run.title, 60) : vscode.l10n.t('Run');
}
