import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { describe, it } from 'mocha';
import * as vscode from 'vscode';
import { api } from './fixtures.ts';

interface Manifest {
  readonly contributes: {
    readonly commands: readonly { readonly command: string; readonly title: string; readonly category: string }[];
    readonly walkthroughs: readonly { readonly steps: readonly { readonly description: string; readonly media: { readonly svg: string }; readonly completionEvents: readonly string[] }[] }[];
    readonly menus: Readonly<Record<string, readonly { readonly command: string; readonly when?: string }[]>>;
    readonly configuration: { readonly properties: Readonly<Record<string, { readonly scope?: string; readonly order?: number; readonly default: unknown }>> };
  };
}

async function manifest(): Promise<{ readonly parsed: Manifest; readonly text: string; readonly words: Readonly<Record<string, string>> }> {
  const folder = vscode.extensions.getExtension('bondwise.bondwise')?.extensionPath ?? '';
  const text = await readFile(path.join(folder, 'package.json'), 'utf8');
  const words: unknown = JSON.parse(await readFile(path.join(folder, 'package.nls.json'), 'utf8'));
  return { parsed: JSON.parse(text) as Manifest, text, words: words as Record<string, string> };
}

describe('the manifest', () => {
  it('names only commands that are registered, and every registered one', async () => {
    await api();
    const { parsed } = await manifest();
    const registered = new Set((await vscode.commands.getCommands(true)).filter(command => /^bondwise\.[a-zA-Z]+$/.test(command)));
    const declared = parsed.contributes.commands.map(({ command }) => command);
    assert.deepEqual([...declared].filter(command => !registered.has(command)), []);
    const inMenus = Object.values(parsed.contributes.menus).flat().map(({ command }) => command);
    assert.deepEqual(inMenus.filter(command => !declared.includes(command)), []);
    assert.ok(parsed.contributes.commands.every(({ category }) => category === 'Bondwise'));
  });

  it('has a text for every key, and no text without a key', async () => {
    const { text, words } = await manifest();
    const keys = new Set(Array.from(text.matchAll(/"%([^%"]+)%"/g), ([, key]) => key));
    assert.deepEqual([...keys].sort(), Object.keys(words).sort());
  });

  it('gives every setting a scope, an order and a default that VS Code has taken over', async () => {
    const { parsed } = await manifest();
    for (const [name, { scope, order, default: value }] of Object.entries(parsed.contributes.configuration.properties)) {
      assert.ok(scope !== undefined && order !== undefined, name);
      assert.deepEqual(vscode.workspace.getConfiguration().inspect(name)?.defaultValue, value, name);
    }
  });

  it('has a walkthrough whose pictures and commands are there', async () => {
    await api();
    const folder = vscode.extensions.getExtension('bondwise.bondwise')?.extensionPath ?? '';
    const { parsed, words } = await manifest();
    const commands = new Set(await vscode.commands.getCommands(true));
    for (const { steps } of parsed.contributes.walkthroughs) {
      for (const { description, media, completionEvents } of steps) {
        const text = words[description.slice(1, -1)] ?? '';
        const used = [...Array.from(text.matchAll(/\(command:([\w.]+)\)/g), ([, command = '']) => command), ...completionEvents.flatMap(event => /^onCommand:(.+)$/.exec(event)?.[1] ?? [])];
        assert.deepEqual(used.filter(command => !commands.has(command)), []);
        assert.match(await readFile(path.join(folder, media.svg), 'utf8'), /^<svg[^>]*>\s*<title>/);
        assert.doesNotMatch(await readFile(path.join(folder, media.svg), 'utf8'), /<script|href|url\(/);
      }
    }
  });
});
