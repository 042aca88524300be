/** A read-only editor of `.safetensors` files: the header at once, and of a chosen tensor what the engine computes. */
import path from 'node:path';
import { readHeader, type SafetensorsFile } from 'safetensors-ts';
import * as vscode from 'vscode';
import { EngineError, runEngine } from '../engine/command.ts';
import type { Environment, Missing } from '../engine/find.ts';
import { isTensorFacts, isTensorSpectrum } from '../protocol/validate.js';
import type { HostMessage, TensorFile, WebviewRequest } from '../protocol/types.ts';
import { messageOf } from '../runs/files.ts';
import { webviewHtml } from './html.ts';
import { answerRequests, post, webviewOptions } from './requests.ts';

export const TENSORS_VIEW_TYPE = 'bondwise.tensors';
/** Milliseconds for a file that is being written to come to rest. */
const CALM = 500;

export interface TensorsParts {
  readonly extension: vscode.Uri;
  readonly engine: { find(): Promise<Environment | Missing> };
  readonly log: vscode.LogOutputChannel;
}

export class TensorsEditors implements vscode.CustomReadonlyEditorProvider, vscode.Disposable {
  readonly #parts: TensorsParts;
  readonly #bundles: vscode.Uri;
  readonly #open = new Set<TensorsEditor>();
  readonly #registration: vscode.Disposable;
  /** Chosen before the editor was there. */
  readonly #waiting = new Map<string, string>();

  constructor(parts: TensorsParts) {
    this.#parts = parts;
    this.#bundles = vscode.Uri.joinPath(parts.extension, 'dist', 'webview');
    this.#registration = vscode.window.registerCustomEditorProvider(TENSORS_VIEW_TYPE, this, { supportsMultipleEditorsPerDocument: true });
  }

  dispose(): void {
    this.#registration.dispose();
    this.#open.forEach(editor => editor.dispose());
  }

  /** The editors that are open. */
  get open(): readonly TensorsEditor[] {
    return [...this.#open];
  }

  /** Opens the editor of a file, or brings it to the front, with a tensor chosen. */
  async show(file: string, tensor?: string): Promise<void> {
    const shown = this.open.filter(editor => editor.file === file);
    if (tensor !== undefined) {
      if (shown.length === 0) {
        this.#waiting.set(file, tensor);
      }
      await Promise.all(shown.map(editor => editor.choose(tensor)));
    }
    await vscode.commands.executeCommand('vscode.openWith', vscode.Uri.file(file), TENSORS_VIEW_TYPE);
  }

  openCustomDocument(uri: vscode.Uri): vscode.CustomDocument {
    return { uri, dispose: () => undefined };
  }

  resolveCustomEditor({ uri }: vscode.CustomDocument, view: vscode.WebviewPanel): void {
    view.webview.options = webviewOptions(this.#bundles);
    const editor = new TensorsEditor(uri.fsPath, view.webview, this.#parts, this.#waiting.get(uri.fsPath));
    this.#waiting.delete(uri.fsPath);
    this.#open.add(editor);
    view.onDidDispose(() => {
      editor.dispose();
      this.#open.delete(editor);
    });
    view.webview.html = webviewHtml(view.webview, this.#bundles, 'tensors', path.basename(uri.fsPath));
  }
}

class TensorsEditor implements vscode.Disposable {
  readonly file: string;
  readonly #webview: vscode.Webview;
  readonly #parts: TensorsParts;
  readonly #subscriptions: vscode.Disposable;
  #timer: NodeJS.Timeout | undefined;
  /** Of the values that are being read: another choice ends it. */
  #reading = new AbortController();

  #chosen: string | undefined;

  constructor(file: string, webview: vscode.Webview, parts: TensorsParts, chosen: string | undefined) {
    this.file = file;
    this.#chosen = chosen;
    this.#webview = webview;
    this.#parts = parts;
    const watcher = vscode.workspace.createFileSystemWatcher(new vscode.RelativePattern(vscode.Uri.file(path.dirname(file)), path.basename(file)));
    this.#subscriptions = vscode.Disposable.from(
      watcher,
      watcher.onDidChange(() => this.#soon()),
      watcher.onDidCreate(() => this.#soon()),
      answerRequests(webview, `tensors ${file}`, parts.log, request => this.#do(request)),
    );
  }

  dispose(): void {
    clearTimeout(this.#timer);
    this.#reading.abort();
    this.#subscriptions.dispose();
  }

  /** Chooses a tensor in the list. */
  async choose(tensor: string): Promise<void> {
    this.#chosen = tensor;
    await this.#send();
  }

  async #do({ method, argument }: WebviewRequest): Promise<void> {
    switch (method) {
      case 'ready':
        return this.#send();
      case 'tensorFacts':
      case 'tensorSpectrum':
        // Longer than a page waits for an answer: what comes of it is a message of its own.
        void this.#read(argument ?? '', method === 'tensorSpectrum');
        return;
      default:
        throw new Error(`This editor does not serve ${method}.`);
    }
  }

  #soon(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#send().catch((error: unknown) => this.#parts.log.warn(`tensors ${this.file}: ${messageOf(error)}`));
    }, CALM);
  }

  async #send(): Promise<void> {
    this.#reading.abort();
    await this.#post({ type: 'tensors', file: tensorFile(await readHeader(this.file)), choose: this.#chosen ?? null });
    this.#chosen = undefined;
  }

  async #read(name: string, spectrum: boolean): Promise<void> {
    this.#reading.abort();
    const { signal } = (this.#reading = new AbortController());
    try {
      const environment = await this.#engine();
      const asked = ['tensor', this.file, name, ...(spectrum ? ['--spectrum'] : [])];
      const found = spectrum
        ? { spectrum: await runEngine(environment, asked, isTensorSpectrum, { signal }) }
        : { facts: await runEngine(environment, asked, isTensorFacts, { signal }) };
      await this.#post({ type: 'tensorFacts', name, ...found });
    } catch (error) {
      if (!signal.aborted) {
        const problem = error instanceof EngineError ? error.message.replace(/^bondwise: /, '') : messageOf(error);
        await this.#post({ type: 'tensorFacts', name, problem });
      }
    }
  }

  async #engine(): Promise<Environment> {
    if (!vscode.workspace.isTrusted) {
      throw new Error(vscode.l10n.t('Values are read by the engine, which runs in trusted workspaces only. The header is read without it.'));
    }
    const found = await this.#parts.engine.find();
    if (found.python === undefined) {
      throw new Error(vscode.l10n.t('Values are read by the engine, which is not set up yet: run “Bondwise: Set Up Engine”, then choose the tensor again.'));
    }
    return found;
  }

  async #post(message: HostMessage): Promise<void> {
    await post(this.#webview, message);
  }
}

function tensorFile({ path: file, size, dataStart, metadata, tensors }: SafetensorsFile): TensorFile {
  return {
    name: path.basename(file),
    bytes: size,
    header_bytes: dataStart,
    metadata: Object.fromEntries(metadata),
    tensors: [...tensors.values()].map(({ name, shape, dtype, parameters, bytes }) => ({ name, shape: [...shape], dtype, parameters, bytes })),
  };
}
