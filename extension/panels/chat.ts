/** The host's side of the chat panel: one or two models of the warm engine process, side by side on one prompt. */
import { randomUUID } from 'node:crypto';
import path from 'node:path';
import * as vscode from 'vscode';
import { isBusy, messagesFor, withFailure, withPrompt, withReply, withSide, withToken } from '../chat/fold.ts';
import { type Model, openModel } from '../checkpoint/index.ts';
import { codeConsent, type Consent, type ConsentContext } from '../commands/consent.ts';
import { errorText } from '../commands/register.ts';
import { EngineService, type Gone } from '../engine/service.ts';
import type { Environment } from '../engine/find.ts';
import type { ChatModel, ChatReply, ChatRequest, ChatSettings, ChatView, WebviewRequest } from '../protocol/types.ts';
import { isChatModel, isChatReply, isChatToken } from '../protocol/validate.js';
import { Emitter, type Event } from '../runs/emitter.ts';
import type { ModelList } from '../views/modelList.ts';
import { oneLine } from '../views/text.ts';
import { answerRequests, post } from './requests.ts';
import { RestoredPanels } from './restoredPanels.ts';

export const CHAT_VIEW_TYPE = 'bondwise.chat';
/** More columns than that are too narrow to read. */
export const MOST_MODELS = 2;

/** Between the folders of a panel; no folder has it in its name. */
const BETWEEN = '\0';
const MINUTE = 60_000;

export interface ChatParts {
  readonly context: ConsentContext;
  readonly extension: vscode.Uri;
  readonly models: ModelList;
  readonly environment: () => Promise<Environment | undefined>;
  readonly log: vscode.LogOutputChannel;
}

export class ChatPanels extends RestoredPanels {
  readonly service: EngineService;

  constructor(parts: ChatParts) {
    const told = new Emitter<Told>();
    const service = new EngineService({
      environment: parts.environment,
      idle: () => idleMinutes() * MINUTE,
      onLine: line => parts.log.info(`chat: ${line}`),
      onGone: gone => {
        parts.log.info(`chat: the engine’s process ${gone.how === 'idle' ? 'was ended: nothing was asked of it' : `ended: ${gone.reason}`}`);
        told.fire({ gone });
      },
      onNotification: (method, params) => told.fire({ method, params }),
    });
    super(parts.extension, {
      viewType: CHAT_VIEW_TYPE,
      bundle: 'chat',
      key: 'models',
      title: place => titleOf(place.split(BETWEEN)),
      serve: (panel, place) => {
        const folders = place.split(BETWEEN);
        const others = () => this.open.filter(other => other !== place).flatMap(other => other.split(BETWEEN));
        return new ChatPanel(panel, folders, { ...parts, service, told: told.event, others });
      },
    });
    this.service = service;
  }

  override dispose(): void {
    super.dispose();
    this.service.dispose();
  }

  /** @param folders of one model, or of two. */
  chat(folders: readonly string[]): void {
    this.show(folders.join(BETWEEN));
  }
}

type Told = { readonly gone: Gone } | { readonly method: string; readonly params: unknown };

interface PanelParts extends ChatParts {
  readonly service: EngineService;
  readonly told: Event<Told>;
  /** Folders of the models of all other chat panels. */
  readonly others: () => readonly string[];
}

class ChatPanel {
  readonly #panel: vscode.WebviewPanel;
  readonly #parts: PanelParts;
  readonly #subscriptions: vscode.Disposable;
  /** By what the engine calls it: the model whose answer is being written. */
  readonly #writing = new Map<string, number>();
  readonly #loading = new Map<number, Promise<boolean>>();
  #view: ChatView;
  #stop: vscode.CancellationTokenSource | undefined;
  #ready = false;

  constructor(panel: vscode.WebviewPanel, folders: readonly string[], parts: PanelParts) {
    this.#panel = panel;
    this.#parts = parts;
    this.#view = { models: folders.map(folder => ({ folder, name: path.basename(folder), bytes: 0, state: 'away' })) };
    const told = parts.told(event => this.#hear(event));
    this.#subscriptions = vscode.Disposable.from(told, answerRequests(panel.webview, 'chat', parts.log, request => this.#do(request)));
  }

  dispose(): void {
    this.#ready = false;
    this.#stop?.cancel();
    this.#subscriptions.dispose();
    const kept = new Set(this.#parts.others());
    for (const { folder, state } of this.#view.models) {
      if (state !== 'away' && !kept.has(folder)) {
        this.#parts.service.tell('chat/unload', this.#load(folder, null));
      }
    }
  }

  async #do({ method, argument, chat }: WebviewRequest): Promise<void> {
    if (method === 'ready') {
      this.#ready = true;
      await this.#show();
      void this.#loadAll();
    } else if (method === 'loadChat') {
      void this.#loadAll();
    } else if (method === 'sendChat') {
      const prompt = argument ?? '';
      if (prompt.trim() === '') {
        throw new Error(vscode.l10n.t('Write a prompt first.'));
      }
      if (isBusy(this.#view)) {
        throw new Error(vscode.l10n.t('The models are still writing. Stop them, or wait.'));
      }
      void this.#ask(prompt, chat ?? {});
    } else if (method === 'stopChat') {
      this.#stop?.cancel();
    } else if (method === 'clearChat') {
      this.#stop?.cancel();
      this.#writing.clear();
      await this.#change({ ...this.#view, turns: [] });
    } else {
      throw new Error(`This panel does not serve ${method}.`);
    }
  }

  async #ask(prompt: string, settings: ChatSettings): Promise<void> {
    const stop = new vscode.CancellationTokenSource();
    this.#stop = stop;
    await this.#change(withPrompt(this.#view, prompt));
    await Promise.all(this.#view.models.map((_, model) => this.#answer(model, settings, stop.token)));
    stop.dispose();
  }

  /** What goes wrong stands in the answer. */
  async #answer(model: number, settings: ChatSettings, token: vscode.CancellationToken): Promise<void> {
    const turn = randomUUID();
    const { turns = [] } = this.#view;
    const messages = messagesFor(this.#view, model, settings);
    // After a new conversation has begun nobody waits for this answer.
    const isWanted = (): boolean => (this.#view.turns ?? []).length === turns.length;
    try {
      const ready = await Promise.race([this.#ensure(model), stopped(token)]);
      const side = this.#view.models[model];
      if (token.isCancellationRequested) {
        await this.#changeIf(isWanted, view => withReply(view, model, { text: '', prompt_tokens: 0, reason: 'stopped' }));
        return;
      }
      if (!ready || !side) {
        await this.#changeIf(isWanted, view => withFailure(view, model, side?.problem ?? vscode.l10n.t('The model is not in memory.')));
        return;
      }
      this.#writing.set(turn, model);
      const { temperature = 0, seed = 0, max_tokens = 256 } = settings;
      const request: ChatRequest = { ...this.#load(side.folder, codeOf(await this.#consent(side.folder))), turn, messages, temperature, seed, max_tokens };
      const reply: ChatReply = await this.#parts.service.request('chat/generate', request, isChatReply, token);
      await this.#changeIf(isWanted, view => withReply(view, model, reply));
    } catch (error) {
      this.#parts.log.error(`chat: ${errorText(error)}`);
      await this.#changeIf(isWanted, view => withFailure(view, model, errorText(error)));
    } finally {
      this.#writing.delete(turn);
    }
  }

  async #loadAll(): Promise<void> {
    for (const [model, { state }] of this.#view.models.entries()) {
      if (state !== 'ready') {
        await this.#ensure(model);
      }
    }
  }

  /** Whether the model is in memory, where it is brought if it is not. */
  #ensure(model: number): Promise<boolean> {
    if (this.#view.models[model]?.state === 'ready') {
      return Promise.resolve(true);
    }
    const loading = this.#loading.get(model) ?? this.#bring(model).finally(() => this.#loading.delete(model));
    this.#loading.set(model, loading);
    return loading;
  }

  async #bring(model: number): Promise<boolean> {
    const folder = this.#view.models[model]?.folder ?? '';
    try {
      const found = await this.#model(folder);
      await this.#change(withSide(this.#view, model, { state: 'loading', problem: null, facts: null, name: oneLine(found.name, 80), bytes: found.bytes }));
      const allowed = await this.#consent(folder);
      if (allowed === 'refused') {
        throw new Error(vscode.l10n.t('It brings its own Python code, which you did not allow.'));
      }
      const facts: ChatModel = await this.#parts.service.request('chat/load', this.#load(folder, codeOf(allowed)), isChatModel);
      await this.#change(withSide(this.#view, model, { state: 'ready', facts }));
      return true;
    } catch (error) {
      this.#parts.log.error(`chat: ${folder}: ${errorText(error)}`);
      await this.#change(withSide(this.#view, model, { state: 'failed', problem: errorText(error) }));
      return false;
    }
  }

  async #model(folder: string): Promise<Model> {
    if (!vscode.workspace.isTrusted) {
      throw new Error(vscode.l10n.t('Models are loaded in a trusted workspace only.'));
    }
    await this.#parts.models.ready();
    return this.#parts.models.entries.find(entry => entry.folder === folder)?.model ?? openModel(folder);
  }

  async #consent(folder: string): Promise<Consent> {
    return codeConsent(this.#parts.context, await this.#model(folder));
  }

  #load(folder: string, code: string | null): Required<Pick<ChatRequest, 'model' | 'device' | 'code'>> {
    const device = vscode.workspace.getConfiguration('bondwise', vscode.Uri.file(folder)).get<string>('device', 'auto');
    return { model: folder, device, code };
  }

  #hear(told: Told): void {
    if ('gone' in told) {
      const note =
        told.gone.how === 'idle'
          ? vscode.l10n.t('The models were taken out of memory: nothing was asked of them for {0} minutes. Your next prompt loads them again.', idleMinutes())
          : vscode.l10n.t('The engine’s process ended ({0}). It starts again with your next prompt.', told.gone.reason);
      const models = this.#view.models.map(side => (side.state === 'ready' ? { ...side, state: 'away' as const, facts: null } : side));
      void this.#change({ ...this.#view, models, note });
    } else if (told.method === 'chat/token' && isChatToken(told.params)) {
      const token = told.params;
      const model = this.#writing.get(token.turn);
      if (model !== undefined) {
        this.#view = withToken(this.#view, model, token);
        if (this.#ready) {
          void post(this.#panel.webview, { type: 'chatToken', model, token });
        }
      }
    }
  }

  async #changeIf(wanted: () => boolean, change: (view: ChatView) => ChatView): Promise<void> {
    if (wanted()) {
      await this.#change(change(this.#view));
    }
  }

  async #change(view: ChatView): Promise<void> {
    this.#view = view;
    await this.#show();
  }

  async #show(): Promise<void> {
    if (this.#ready) {
      await post(this.#panel.webview, { type: 'chat', chat: this.#view });
    }
  }
}

/** Resolves when the user has stopped it: a model that is still being loaded is loaded to its end, and nobody waits for it. */
function stopped(token: vscode.CancellationToken): Promise<false> {
  return new Promise(resolve => {
    token.onCancellationRequested(() => resolve(false));
  });
}

function idleMinutes(): number {
  return Math.max(1, vscode.workspace.getConfiguration('bondwise').get<number>('chat.idleMinutes', 10));
}

function titleOf(folders: readonly string[]): string {
  return vscode.l10n.t('Chat: {0}', folders.map(folder => oneLine(path.basename(folder), 40)).join(' · '));
}

function codeOf(consent: Consent): string | null {
  return typeof consent === 'object' ? consent.hash : null;
}
