/** The engine's environment as a user meets it: found, set up with consent, repaired, checked. */
import path from 'node:path';
import * as vscode from 'vscode';
import { doctor } from '../engine/command.ts';
import { describeMissing, type Environment, findEnvironment, type Missing } from '../engine/find.ts';
import { bondwiseHome, environmentDirectory } from '../engine/home.ts';
import { setUpEnvironment, type SetUpProgress } from '../engine/setup.ts';
import { downloadSize } from '../engine/sizes.ts';
import { messageOf } from '../runs/files.ts';
import { formatBytes, formatDuration } from '../runs/format.ts';
import type { RunStore } from '../runs/store.ts';
import { engineReport, missingReport } from './engineReport.ts';

const LOCK = 'requirements.lock';
const REPORT_SCHEME = 'bondwise-report';
const REPORT = vscode.Uri.from({ scheme: REPORT_SCHEME, path: '/Bondwise Engine Check' });

export class EngineCommands implements vscode.Disposable {
  readonly #directory: string;
  readonly #log: vscode.LogOutputChannel;
  readonly #runs: RunStore;
  readonly #reportChanged = new vscode.EventEmitter<vscode.Uri>();
  readonly #registration: vscode.Disposable;
  #report = '';
  /** What the report says: there is no engine. */
  #missing = false;

  /** @param directory the extension's folder `engine`. */
  constructor(directory: string, runs: RunStore, log: vscode.LogOutputChannel) {
    this.#directory = directory;
    this.#runs = runs;
    this.#log = log;
    this.#registration = vscode.Disposable.from(
      vscode.workspace.registerTextDocumentContentProvider(REPORT_SCHEME, {
        onDidChange: this.#reportChanged.event,
        provideTextDocumentContent: () => this.#report,
      }),
      vscode.languages.registerCodeLensProvider({ scheme: REPORT_SCHEME }, { provideCodeLenses: () => this.#offer() }),
    );
  }

  dispose(): void {
    this.#registration.dispose();
    this.#reportChanged.dispose();
  }

  async find(): Promise<Environment | Missing> {
    const found = await findEnvironment({ engineDir: this.#directory, setting: interpreterSetting(), pythonExtension: pythonExtensionChoice });
    void vscode.commands.executeCommand('setContext', 'bondwise.engineReady', found.python !== undefined);
    if (found.python === undefined) {
      this.#log.info(`no engine:\n${describeMissing(found)}`);
    } else {
      this.#log.debug(`engine: ${found.python} (${found.version}, ${found.source})`);
    }
    return found;
  }

  /** The environment; where there is none, offers to set it up. @returns undefined when the user declined. */
  async require(): Promise<Environment | undefined> {
    refuseWindows();
    const found = await this.find();
    if (found.python !== undefined) {
      return found;
    }
    const [only] = found.tried;
    if (only?.source === 'setting') {
      throw new Error(
        vscode.l10n.t('The interpreter in the setting bondwise.python ({0}) cannot run the engine: {1}. Correct the setting or clear it.', only.candidate, only.reason),
      );
    }
    return this.#askAndSetUp(false, vscode.l10n.t('This needs Bondwise’s engine, which is not set up yet.'));
  }

  /** “Set Up Engine”: makes what is missing; repairs what is there. */
  async setUp(): Promise<void> {
    refuseWindows();
    const found = await findEnvironment({ engineDir: this.#directory });
    const present = found.python !== undefined && found.source === 'bondwise';
    const made = await this.#askAndSetUp(present, present ? vscode.l10n.t('The engine is set up already. Repair makes its environment anew.') : vscode.l10n.t('Set up Bondwise’s engine?'));
    if (made) {
      void vscode.commands.executeCommand('setContext', 'bondwise.engineReady', true);
      const check = vscode.l10n.t('Check Engine');
      if ((await vscode.window.showInformationMessage(vscode.l10n.t('The engine is ready: Python {0}.', made.version), check)) === check) {
        await this.check();
      }
    }
  }

  /** “Check Engine”: what was found, in words, with what to do. */
  async check(): Promise<void> {
    await vscode.window.withProgress({ location: { viewId: 'bondwise.runs' } }, () => this.#look());
    await vscode.window.showTextDocument(await vscode.workspace.openTextDocument(REPORT), { preview: true });
  }

  /** Writes the report anew. */
  async #look(): Promise<void> {
    const found = await this.find();
    const cwd = vscode.workspace.workspaceFolders?.[0]?.uri.fsPath;
    this.#report = found.python === undefined ? missingReport(found) : engineReport(await doctor(found, cwd === undefined ? {} : { cwd }), found);
    this.#missing = found.python === undefined;
    this.#reportChanged.fire(REPORT);
  }

  /** In the report and not in a notification: that would go on saying so after a set-up that was begun elsewhere. */
  #offer(): vscode.CodeLens[] {
    const command = { command: 'bondwise.setUpEngine', title: `$(cloud-download) ${vscode.l10n.t('Set Up Engine')}` };
    return this.#missing ? [new vscode.CodeLens(new vscode.Range(0, 0, 0, 0), command)] : [];
  }

  async #askAndSetUp(repair: boolean, question: string): Promise<Environment | undefined> {
    if (repair && this.#runs.active.length > 0) {
      throw new Error(vscode.l10n.t('A run is at work in this environment. Wait until it has ended, or cancel it, then repair.'));
    }
    const home = bondwiseHome();
    const size = await downloadSize(this.#directory, LOCK);
    const action = repair ? vscode.l10n.t('Repair') : vscode.l10n.t('Set Up');
    const detail = [
      vscode.l10n.t('A Python environment of its own is made in {0}; nothing else on this machine changes.', await environmentDirectory(home, this.#directory, LOCK)),
      size
        ? vscode.l10n.t('It downloads up to {0} from the Python package index and takes {1} on disk.', formatBytes(size.download), formatBytes(size.installed))
        : vscode.l10n.t('It downloads PyTorch and what belongs to it from the Python package index: some gigabytes.'),
    ].join('\n\n');
    if ((await vscode.window.showInformationMessage(question, { modal: true, detail }, action)) !== action) {
      return undefined;
    }
    return this.#setUp(repair);
  }

  async #setUp(repair: boolean): Promise<Environment | undefined> {
    const abort = new AbortController();
    const title = repair ? vscode.l10n.t('Repairing the engine') : vscode.l10n.t('Setting up the engine');
    try {
      const made = await vscode.window.withProgress({ location: vscode.ProgressLocation.Notification, title, cancellable: true }, (progress, token) => {
        token.onCancellationRequested(() => abort.abort());
        let phase = '';
        let percent = 0;
        return setUpEnvironment({
          engineDir: this.#directory,
          repair,
          signal: abort.signal,
          onProgress: now => {
            if (now.phase !== phase) {
              phase = now.phase;
              this.#log.info(`engine set-up: ${phase}`);
            }
            const done = now.bytes ? Math.floor((100 * now.bytes.done) / now.bytes.total) : percent;
            // Any increment, even none, makes the bar one that stands still between two of them.
            progress.report({ message: progressMessage(now), ...(done > percent && { increment: done - percent }) });
            percent = Math.max(percent, done);
          },
        });
      });
      if (vscode.workspace.textDocuments.some(({ uri }) => uri.toString() === REPORT.toString())) {
        // It says what there was before.
        this.#look().catch((error: unknown) => this.#log.error(messageOf(error)));
      }
      return made;
    } catch (error) {
      if (abort.signal.aborted) {
        this.#log.info('engine set-up: cancelled');
        return undefined;
      }
      throw error;
    }
  }
}

function progressMessage({ phase, bytes, eta, packages }: SetUpProgress): string {
  const parts = [
    packages !== undefined && !bytes ? vscode.l10n.t('{0} ({1} packages)', phase, packages) : phase,
    ...(bytes ? [vscode.l10n.t('{0} of {1}', formatBytes(bytes.done), formatBytes(bytes.total))] : []),
    ...(eta === undefined ? [] : [vscode.l10n.t('{0} left', formatDuration(eta))]),
  ];
  return parts.join(' · ');
}

/** The setting; a path with a folder in it starts at the workspace folder, a bare name is looked up on PATH. */
function interpreterSetting(): string | undefined {
  const setting = vscode.workspace.getConfiguration('bondwise').get<string>('python', '').trim();
  if (setting === '') {
    return undefined;
  }
  const root = vscode.workspace.workspaceFolders?.[0]?.uri.fsPath;
  const relative = /[\\/]/.test(setting) && !path.isAbsolute(setting) && !setting.startsWith('~');
  return relative && root !== undefined ? path.join(root, setting) : setting;
}

/** The interpreter that is chosen in the Python extension, by its public API (`environments.resolveEnvironment`), when it is installed. */
async function pythonExtensionChoice(): Promise<string | undefined> {
  const api = await vscode.extensions.getExtension<PythonApi>('ms-python.python')?.activate();
  const resource = vscode.workspace.workspaceFolders?.[0]?.uri;
  const chosen = api?.environments?.getActiveEnvironmentPath(resource);
  const resolved = chosen && (await api?.environments?.resolveEnvironment(chosen));
  return resolved?.executable.uri?.fsPath;
}

/** What is used of https://github.com/microsoft/vscode-python/wiki/Python-Environment-APIs. */
interface PythonApi {
  readonly environments?: {
    getActiveEnvironmentPath(resource?: vscode.Uri): { readonly path: string };
    resolveEnvironment(environment: { readonly path: string }): Promise<{ readonly executable: { readonly uri?: vscode.Uri } } | undefined>;
  };
}

/** The engine locks files and folders as POSIX systems do. @throws on Windows itself; WSL is Linux. */
function refuseWindows(): void {
  if (process.platform === 'win32') {
    throw new Error(vscode.l10n.t('Bondwise’s engine runs on Linux and macOS. On Windows open this folder in WSL, or on another machine over Remote-SSH: models can be looked at here, runs need one of those.'));
  }
}
