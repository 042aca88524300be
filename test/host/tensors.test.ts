import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { after, before, describe, it } from 'mocha';
import * as vscode from 'vscode';
import type { Api } from '../../extension/extension.ts';
import { TENSORS_VIEW_TYPE } from '../../extension/panels/tensors.ts';
import { api, temporary, until, writeCompressed } from './fixtures.ts';

let extension: Api;
let place: Awaited<ReturnType<typeof temporary>>;

const tabs = () =>
  vscode.window.tabGroups.all.flatMap(group => group.tabs).filter(({ input }) => input instanceof vscode.TabInputCustom && input.viewType === TENSORS_VIEW_TYPE);

describe('the editor of weight files', () => {
  before(async () => {
    extension = await api();
    place = await temporary();
  });
  after(async () => {
    await vscode.window.tabGroups.close(tabs());
    await place.remove();
  });

  it('opens by “Show Tensors”, once a file', async () => {
    const folder = await writeCompressed(path.join(place.folder, 'small'));
    const file = vscode.Uri.file(path.join(folder, 'model.safetensors'));
    await vscode.commands.executeCommand('bondwise.showTensors', file);
    await vscode.commands.executeCommand('bondwise.showTensors', file);
    await until('an editor', () => (tabs().length === 1 ? true : undefined));
    assert.deepEqual(
      extension.tensors.open.map(editor => editor.file),
      [file.fsPath],
    );
    await vscode.window.tabGroups.close(tabs());
    await until('closed', () => (extension.tensors.open.length === 0 ? true : undefined));
  });

  it('leaves other files to other editors', async () => {
    const other = path.join(place.folder, 'notes.txt');
    await writeFile(other, 'x');
    await vscode.commands.executeCommand('vscode.open', vscode.Uri.file(other));
    assert.equal(extension.tensors.open.length, 0);
  });
});
