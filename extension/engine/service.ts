/**
 * The warm engine process: `python -m bondwise serve`, spoken to by JSON-RPC over its pipes. Started when something is asked of it, ended
 * after some minutes in which nothing was, and with this process. Whoever asks next after it died, or was ended, gets a new one.
 */
import { spawn, type ChildProcessByStdio } from 'node:child_process';
import type { Readable, Writable } from 'node:stream';
import { createInterface } from 'node:readline';
import { type CancellationToken, createMessageConnection, ErrorCodes, type MessageConnection, NullLogger, ResponseError, StreamMessageReader, StreamMessageWriter } from 'vscode-jsonrpc/node';
import type { Validator } from '../protocol/validate.js';
import { EngineError } from './command.ts';
import { engineArguments, engineVariables, type Environment } from './find.ts';

/** Why the process is gone. */
export type Gone = { readonly how: 'idle' } | { readonly how: 'died'; readonly reason: string };

export interface ServiceOptions {
  /** The engine's environment; rejects, or gives undefined, where there is none and the user wants none. */
  readonly environment: () => Promise<Environment | undefined>;
  /** Milliseconds without a request after which the process is ended; asked anew each time. */
  readonly idle: () => number;
  /** Lines on its standard error. */
  readonly onLine: (line: string) => void;
  readonly onGone: (gone: Gone) => void;
  readonly onNotification: (method: string, params: unknown) => void;
}

interface Running {
  readonly child: ChildProcessByStdio<Writable, Readable, Readable>;
  readonly connection: MessageConnection;
  /** How the process ended, in words. */
  readonly ended: Promise<string>;
}

/** Milliseconds that it has to end by itself, when its input has ended. */
const GRACE = 2000;

/** The process died while it was asked. */
export class ServiceGoneError extends EngineError {}

export class EngineService {
  readonly #options: ServiceOptions;
  #starting: Promise<Running> | undefined;
  #running: Running | undefined;
  #open = 0;
  #idle: NodeJS.Timeout | undefined;

  constructor(options: ServiceOptions) {
    this.#options = options;
  }

  dispose(): void {
    this.#stop();
  }

  /** Of the process, while there is one. */
  get pid(): number | undefined {
    return this.#running?.child.pid;
  }

  /**
   * Asks, and starts a process where there is none. A cancelled request still resolves, with what was done until then.
   * @throws EngineError with the engine's reason and remedy; ServiceGoneError when the process died meanwhile.
   */
  async request<T>(method: string, params: object, isValid: Validator<T>, token?: CancellationToken): Promise<T> {
    this.#open += 1;
    clearTimeout(this.#idle);
    try {
      const running = await this.#start();
      const answer: unknown = await this.#orGone(running, token ? running.connection.sendRequest(method, params, token) : running.connection.sendRequest(method, params));
      if (!isValid(answer)) {
        throw new EngineError(`The answer of ${method} is not valid: ${JSON.stringify(isValid.errors?.[0])}`);
      }
      return answer;
    } finally {
      this.#open -= 1;
      this.#rest();
    }
  }

  /** Tells something that needs no answer, if there is a process to be told. */
  tell(method: string, params: object): void {
    this.#running?.connection.sendRequest(method, params).catch(() => undefined);
  }

  async #orGone(running: Running, answer: Promise<unknown>): Promise<unknown> {
    const gone = running.ended.then((reason): never => {
      throw new ServiceGoneError(`The engine’s process ended: ${reason}.`);
    });
    gone.catch(() => undefined);
    try {
      return await Promise.race([answer, gone]);
    } catch (error) {
      if (error instanceof ResponseError && error.code !== ErrorCodes.PendingResponseRejected) {
        throw new EngineError(error.message, undefined, remedyOf(error.data));
      }
      // A connection that breaks is told before the end of its process.
      throw error instanceof EngineError ? error : new ServiceGoneError(`The engine’s process ended: ${await running.ended}.`);
    }
  }

  #start(): Promise<Running> {
    if (this.#running) {
      return Promise.resolve(this.#running);
    }
    this.#starting ??= this.#spawn().finally(() => {
      this.#starting = undefined;
    });
    return this.#starting;
  }

  async #spawn(): Promise<Running> {
    const environment = await this.#options.environment();
    if (!environment) {
      throw new EngineError('The engine is not set up.');
    }
    const child = spawn(environment.python, engineArguments(['serve']), {
      cwd: environment.engineDir,
      env: { ...process.env, ...engineVariables(environment) },
      stdio: ['pipe', 'pipe', 'pipe'],
      windowsHide: true,
    });
    // A write to a process that has just died fails; its end is told by itself.
    child.stdin.on('error', () => undefined);
    const ended = new Promise<string>(resolve => {
      child.once('error', error => resolve(error.message));
      child.once('exit', (code, signal) => resolve(signal ? `killed by ${signal}` : `exit status ${code ?? 'unknown'}`));
    });
    createInterface({ input: child.stderr }).on('line', line => this.#options.onLine(line));
    const connection = createMessageConnection(new StreamMessageReader(child.stdout), new StreamMessageWriter(child.stdin), NullLogger);
    connection.onNotification((method, params) => this.#options.onNotification(method, params));
    connection.onError(() => undefined);
    connection.listen();
    const running = { child, connection, ended };
    this.#running = running;
    void ended.then(reason => {
      connection.dispose();
      if (this.#running === running) {
        this.#running = undefined;
        clearTimeout(this.#idle);
        this.#options.onGone({ how: 'died', reason });
      }
    });
    return running;
  }

  #rest(): void {
    if (this.#open === 0 && this.#running) {
      clearTimeout(this.#idle);
      this.#idle = setTimeout(() => {
        this.#stop();
        this.#options.onGone({ how: 'idle' });
      }, this.#options.idle());
      this.#idle.unref();
    }
  }

  /** Its input ends, and it with that; where it does not, it is killed. */
  #stop(): void {
    clearTimeout(this.#idle);
    const running = this.#running;
    this.#running = undefined;
    if (running) {
      running.child.stdin.end();
      const timer = setTimeout(() => running.child.kill('SIGKILL'), GRACE);
      timer.unref();
      void running.ended.then(() => clearTimeout(timer));
    }
  }
}

function remedyOf(data: unknown): string | undefined {
  const remedy: unknown = typeof data === 'object' && data !== null ? Reflect.get(data, 'remedy') : undefined;
  return typeof remedy === 'string' ? remedy : undefined;
}
