import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { CancellationTokenSource } from 'vscode-jsonrpc/node';
import { EngineError } from '../../extension/engine/command.ts';
import type { Environment } from '../../extension/engine/find.ts';
import { EngineService, type Gone, ServiceGoneError } from '../../extension/engine/service.ts';
import { projectRoot } from '../../extension/scripts/project.ts';
import { makeWorkshop, type Workshop } from './engineFake.ts';
import { until } from './runsFake.ts';

/** A process that speaks as the engine does, and can die. */
const FAKE = `
const rpc = require('vscode-jsonrpc/node');
const connection = rpc.createMessageConnection(new rpc.StreamMessageReader(process.stdin), new rpc.StreamMessageWriter(process.stdout));
console.error('ready to serve');
connection.onRequest('twice', ({ number }) => ({ number: 2 * number }));
connection.onRequest('fail', () => { throw new rpc.ResponseError(1, 'It is gone.', { remedy: 'Look for it.' }); });
connection.onRequest('wait', (_, token) => new Promise(resolve => { void connection.sendNotification('waiting', { yes: true }); token.onCancellationRequested(() => resolve({ number: -1 })); }));
connection.onRequest('die', () => process.exit(7));
connection.listen();
process.stdin.on('end', () => process.exit(0));
`;

const isNumber = Object.assign((value: unknown): value is { number: number } => typeof value === 'object' && value !== null && 'number' in value, { errors: null });

describe('the warm engine process', () => {
  let workshop: Workshop;
  let environment: Environment;
  let service: EngineService;
  let idle = 60_000;
  const gone: Gone[] = [];
  const told: unknown[] = [];
  const lines: string[] = [];

  beforeEach(async () => {
    workshop = await makeWorkshop();
    const python = await workshop.script('python', `exec '${process.execPath}' -e "$FAKE"`);
    process.env.FAKE = FAKE;
    environment = { python, version: '3.11.0', source: 'bondwise', engineDir: projectRoot, home: workshop.home };
    for (const list of [gone, told, lines]) {
      list.length = 0;
    }
    idle = 60_000;
    service = new EngineService({
      environment: () => Promise.resolve(environment),
      idle: () => idle,
      onLine: line => lines.push(line),
      onGone: how => gone.push(how),
      onNotification: (method, params) => told.push([method, params]),
    });
  });
  afterEach(async () => {
    const { pid } = service;
    service.dispose();
    delete process.env.FAKE;
    await until(() => Promise.resolve(!isThere(pid)));
    await workshop.dispose();
  });

  it('is started once, however much is asked at a time', async () => {
    expect(service.pid).toBeUndefined();
    const answers = await Promise.all([1, 2, 3].map(number => service.request('twice', { number }, isNumber)));
    expect(answers.map(({ number }) => number)).toEqual([2, 4, 6]);
    const { pid } = service;
    await service.request('twice', { number: 1 }, isNumber);
    expect(service.pid).toBe(pid);
    await until(() => Promise.resolve(lines.includes('ready to serve')));
    expect(gone).toEqual([]);
  });

  it('gives the engine’s reason and remedy', async () => {
    const failure = await service.request('fail', {}, isNumber).catch((error: unknown) => error);
    expect(failure).toBeInstanceOf(EngineError);
    expect(failure).toMatchObject({ message: 'It is gone.', remedy: 'Look for it.' });
    await expect(service.request('twice', { number: 1 }, Object.assign((value: unknown): value is string => typeof value === 'string', { errors: null }))).rejects.toThrow('not valid');
  });

  it('answers a cancelled request with what was done', async () => {
    const source = new CancellationTokenSource();
    const answer = service.request('wait', {}, isNumber, source.token);
    await until(() => Promise.resolve(told.length > 0));
    expect(told).toEqual([['waiting', { yes: true }]]);
    source.cancel();
    expect(await answer).toEqual({ number: -1 });
  });

  it('says that it died, and the next request gets a new one', async () => {
    const other = service.request('wait', {}, isNumber).catch((error: unknown) => error);
    await expect(service.request('die', {}, isNumber)).rejects.toBeInstanceOf(ServiceGoneError);
    expect(await other).toMatchObject({ message: 'The engine’s process ended: exit status 7.' });
    expect(gone).toEqual([{ how: 'died', reason: 'exit status 7' }]);
    expect(await service.request('twice', { number: 4 }, isNumber)).toEqual({ number: 8 });
  });

  it('ends when nothing is asked for a while, and not while something is', async () => {
    idle = 50;
    const source = new CancellationTokenSource();
    const answer = service.request('wait', {}, isNumber, source.token);
    await until(() => Promise.resolve(told.length > 0));
    const { pid } = service;
    await new Promise(resolve => setTimeout(resolve, 200));
    expect(isThere(pid)).toBe(true);
    source.cancel();
    await answer;
    await until(() => Promise.resolve(!isThere(pid)));
    expect(gone).toEqual([{ how: 'idle' }]);
    expect(service.pid).toBeUndefined();
  });

  it('says why it cannot be started', async () => {
    environment = { ...environment, python: path.join(workshop.bin, 'nowhere') };
    await expect(service.request('twice', { number: 1 }, isNumber)).rejects.toThrow(/process ended: .*ENOENT/);
  });
});

function isThere(pid: number | undefined): boolean {
  try {
    return pid !== undefined && process.kill(pid, 0);
  } catch {
    return false;
  }
}
