import assert from 'node:assert/strict';
import { appendFile, copyFile, rm } from 'node:fs/promises';
import path from 'node:path';
import { after, afterEach, before, beforeEach, describe, it } from 'mocha';
import * as vscode from 'vscode';
import { codeHash, type Model, openModel } from '../../extension/checkpoint/index.ts';
import { type ConsentContext, mayRunAgain, withConsent } from '../../extension/commands/consent.ts';
import { requestBase } from '../../extension/commands/startRun.ts';
import type { RunRequest } from '../../extension/protocol/types.ts';
import { temporary, writeCompressed } from './fixtures.ts';

/** Answers the next questions, and keeps what they said. */
const answers: (string | undefined)[] = [];
const asked: string[] = [];
const original = Object.getOwnPropertyDescriptor(vscode.window, 'showWarningMessage');

const kept = new Map<string, unknown>();
let context: ConsentContext;
let outside: Awaited<ReturnType<typeof temporary>>;
let model: Model;
let module: string;

async function ask(): Promise<boolean | null | undefined> {
  const request: RunRequest = { kind: 'profile', ...requestBase('Profile', vscode.Uri.file(model.folder)), model: model.folder, options: { output: '/x.sensitivity.json' } };
  const allowed = await withConsent(context, model, request);
  if (allowed?.allow_code) {
    assert.deepEqual(allowed.code, { [model.folder]: await codeHash(model.folder) }, 'the engine is told which code it is');
  }
  return allowed?.allow_code;
}

describe('consent to the code of a compressed model', () => {
  before(async () => {
    const { extensionPath } = vscode.extensions.getExtension('bondwise.bondwise') ?? { extensionPath: '' };
    const workspaceState = {
      get: (key: string, fallback?: unknown) => kept.get(key) ?? fallback,
      update: (key: string, value: unknown) => Promise.resolve(void kept.set(key, value)),
    } as unknown as vscode.Memento;
    context = { extensionPath, workspaceState };
    outside = await temporary();
    model = await openModel(await writeCompressed(path.join(outside.folder, 'small')));
    module = path.join(model.folder, 'modeling_mpo.py');
    await copyFile(path.join(extensionPath, 'engine', 'bondwise', 'modeling_mpo.py'), module);
  });
  beforeEach(() => {
    const answer = (message: string, options: vscode.MessageOptions) => {
      asked.push(`${message} ${options.detail ?? ''}`);
      return Promise.resolve(answers.shift());
    };
    Object.defineProperty(vscode.window, 'showWarningMessage', { configurable: true, value: answer });
  });
  afterEach(() => {
    asked.length = 0;
    if (original) {
      Object.defineProperty(vscode.window, 'showWarningMessage', original);
    }
  });
  after(() => outside.remove());

  it('is not asked for while the module is ours, and nothing is allowed', async () => {
    assert.equal(await ask(), false);
    assert.deepEqual(asked, []);
  });

  it('is asked for once the module is another, and refused it starts nothing', async () => {
    await appendFile(module, '\nprint("mine")\n');
    answers.push(undefined, 'Allow This Folder');
    assert.equal(await ask(), undefined);
    assert.equal(await ask(), true);
    assert.match(asked[0] ?? '', /^small brings its own Python code\. Run it\? Its modeling_mpo\.py is not the one of this version/);
    assert.equal(await ask(), true);
    assert.equal(asked.length, 2, 'the same code is allowed from then on');
  });

  it('is asked for again after another change, also to go on with a run', async () => {
    await appendFile(module, '\nprint("theirs")\n');
    const request = { kind: 'perplexity', created: '', title: '', allow_code: true, model: model.folder, options: {} } as unknown as RunRequest;
    answers.push(undefined, 'Allow This Folder');
    assert.equal(await mayRunAgain(context, { directory: outside.folder, request: { ...request, allow_code: false } }), true);
    assert.equal(await mayRunAgain(context, { directory: outside.folder, request }), false);
    assert.match(asked[0] ?? '', /Its Python files have changed since you allowed them/);
    assert.equal(await mayRunAgain(context, { directory: outside.folder, request }), true);
    assert.equal(await ask(), true);
    assert.equal(asked.length, 2);
    await rm(module);
  });
});
