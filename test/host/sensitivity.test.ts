import assert from 'node:assert/strict';
import { appendFile, rm, utimes, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { after, before, describe, it } from 'mocha';
import * as vscode from 'vscode';
import { fingerprintOf, type Model, openModel } from '../../extension/checkpoint/index.ts';
import { canAddTo, profileRequest } from '../../extension/commands/profile.ts';
import { DEFAULT_SIZES, metricItems, sequencesMessage, sizeItems } from '../../extension/commands/profileSteps.ts';
import type { Api } from '../../extension/extension.ts';
import type { LayerSelection } from '../../extension/panels/layerSelection.ts';
import { bytesOf, safeName } from '../../extension/panels/saveFile.ts';
import { SENSITIVITY_VIEW_TYPE } from '../../extension/panels/sensitivity.ts';
import type { RunEvent, Sensitivity } from '../../extension/protocol/types.ts';
import { isRunRequest } from '../../extension/protocol/validate.js';
import { identify } from '../../extension/runs/process.ts';
import { stateDecorations } from '../../extension/views/decorations.ts';
import type { TreeNode } from '../../extension/views/modelNodes.ts';
import { cell, curve, profileLayers, sensitivity } from '../unit/profiles.ts';
import { api, until, workspaceFolder, writeLlama, writeRun, writeStatus } from './fixtures.ts';
import { Page } from './heatmapPage.ts';

const layers = profileLayers(2);
const name = (block: number, column: string) => `model.layers.${block}.${column}`;
const layerOf = (block: number, column: string) => {
  const found = layers.find(layer => layer.name === name(block, column));
  assert.ok(found);
  return found;
};
const [mildUp, worstDown] = [layerOf(0, 'mlp.up_proj'), layerOf(1, 'mlp.down_proj')];

let extension: Api;
let folder: string;
let file: string;
let profile: Sensitivity;
let model: Model;

async function rows(...labels: readonly string[]): Promise<vscode.TreeItem[]> {
  const tree = extension.modelsTree;
  let nodes = await tree.getChildren(tree.nodeOf(folder));
  for (const label of labels) {
    nodes = await tree.getChildren(nodes.find(each => tree.getTreeItem(each).label === label));
  }
  return nodes.map(node => tree.getTreeItem(node));
}

function tabs(): vscode.Tab[] {
  return vscode.window.tabGroups.all.flatMap(group => group.tabs).filter(({ input }) => input instanceof vscode.TabInputCustom && input.viewType === SENSITIVITY_VIEW_TYPE);
}

function idOf(node: TreeNode | undefined): string | undefined {
  return node && extension.modelsTree.getTreeItem(node).id;
}

describe('sensitivity', () => {
  before(async () => {
    extension = await api();
    folder = await writeLlama(path.join(workspaceFolder(), 'tiny-profiled'));
    file = `${folder}.sensitivity.json`;
    model = await openModel(folder);
    profile = sensitivity({
      model: { path: 'tiny-profiled', name: 'tiny-profiled', fingerprint: await fingerprintOf(folder) },
      layers,
      curves: layers.map(layer => curve(layer, layer === worstDown ? 9 : 0.001)),
      cells: [cell(mildUp, 4, 0.05), cell(mildUp, 8, 0.01)],
      complete: true,
    });
    await writeFile(file, JSON.stringify(profile));
    await extension.modelsTree.getChildren();
    await until('the model is seen', () => extension.models.get(folder)?.model);
    await until('its profile is seen', () => extension.profiles.sensitivity(folder));
  });
  after(async () => {
    await vscode.window.tabGroups.close(tabs());
    await rm(folder, { recursive: true });
    await rm(file, { force: true });
    await until('gone', () => (extension.models.get(folder) ? undefined : true));
  });

  describe('in the Models view', () => {
    it('is the first thing that a row says, with a bar whose colour and height tell the level', async () => {
      const up = (await rows('Block 0')).find(({ label }) => label === 'mlp.up_proj');
      assert.equal(up?.description, '+0.05 nats · 1.5 kB · 10% · 48×16');
      assert.equal(up.accessibilityInformation?.label, 'mlp.up_proj, +0.05 nats, 1.5 kB, 10%, 48×16, BF16, dense, moderate sensitivity');
      const none = new vscode.CancellationTokenSource().token;
      const decoration = up.resourceUri && (await stateDecorations.provideFileDecoration(up.resourceUri, none));
      assert.equal(decoration?.badge, '▃');
      assert.equal(decoration.tooltip, 'moderate sensitivity: the loss rises by 0.0500 ± 0.0050 nats per token with 31% kept (χ 4), measured (tiny-profiled.sensitivity.json)');
      assert.deepEqual(decoration.color, new vscode.ThemeColor('bondwise.sensitivity.moderate'));
      const block = (await rows()).find(({ label }) => label === 'Block 1');
      assert.match(String(block?.description), /^\+2\.3 nats · /);
      const worst = block?.resourceUri && (await stateDecorations.provideFileDecoration(block.resourceUri, none));
      assert.equal(worst?.badge, '█');
    });

    it('sorts blocks and layers, worst first, and back', async () => {
      const labels = async (...at: readonly string[]) => (await rows(...at)).map(({ label }) => label);
      const asIs = [await labels(), await labels('Block 0')];
      await vscode.commands.executeCommand('bondwise.sortBySensitivity');
      assert.deepEqual(await labels(), ['Block 1', 'Block 0', 'Embedding', 'Norms', 'Head']);
      assert.deepEqual(await labels('Block 0'), ['mlp.up_proj', 'self_attn.o_proj', 'self_attn.q_proj', 'mlp.down_proj', 'Norms and others']);
      assert.equal((await labels('Block 1'))[0], 'mlp.down_proj');
      await vscode.commands.executeCommand('bondwise.sortByPosition');
      assert.deepEqual([await labels(), await labels('Block 0')], asIs);
    });
  });

  describe('the heatmap', () => {
    it('is what a profile file opens as, once, with the layers that were asked for', async () => {
      await vscode.commands.executeCommand('vscode.open', vscode.Uri.file(file));
      const [tab] = await until('a tab', () => (tabs().length === 1 ? tabs() : undefined));
      assert.equal(tab?.label, path.basename(file));
      const panel = await until('a panel', () => extension.heatmaps.open[0]);
      assert.equal(panel.file, file);
      await until('the page has its data', () => panel.shown);
      const layer = extension.modelsTree.nodeOf(folder, worstDown.name);
      await vscode.commands.executeCommand('bondwise.showSensitivity', layer, [layer]);
      assert.equal(tabs().length, 1);
      assert.deepEqual(panel.selected, [worstDown.name]);
      await vscode.window.tabGroups.close(tabs());
      await until('closed', () => (extension.heatmaps.open.length === 0 ? true : undefined));
    });

    it('gets the whole profile, and shares its selection with the tree without an echo', async () => {
      const page = new Page(extension, file);
      assert.equal(await page.ask('ready'), null);
      assert.deepEqual(page.of('sensitivity'), [{ type: 'sensitivity', profile, notes: [] }]);
      assert.deepEqual(page.of('profileRun'), []);
      const view = extension.modelsView;
      await vscode.commands.executeCommand('bondwise.models.focus');
      await until('the tree is in sight', () => (view.visible ? true : undefined));
      assert.equal(await page.ask('selectLayers', { layers: [mildUp.name, worstDown.name, 'lm_head'] }), null);
      assert.deepEqual(page.panel.selected, [mildUp.name, worstDown.name]);
      await until('the last one is selected in the tree', () => (view.selection.map(idOf).join() === idOf(extension.modelsTree.nodeOf(folder, worstDown.name)) ? true : undefined));
      assert.equal(view.description, '2 layers selected');
      const layer = extension.modelsTree.nodeOf(folder, mildUp.name);
      const block = layer && extension.modelsTree.getParent(layer);
      assert.ok(block);
      await view.reveal(block, { select: true });
      const [told] = await until('the block that was selected in the tree', () => (page.of('selection').length > 0 ? page.of('selection') : undefined));
      assert.deepEqual([...(told?.layers ?? [])].sort(), layers.filter(layer => layer.block === 0).map(layer => layer.name).sort());
      assert.equal(page.of('selection').length, 1, 'nothing that the page had selected itself came back');
      assert.equal(view.description, '');
      await extension.selection.select(folder, [mildUp.name], {});
      assert.deepEqual(page.of('selection').at(-1)?.layers, [mildUp.name], 'what another view of the model selects is selected here');
      page.close();
    });

    it('scrolls the tree once a selection, and to the last of those that come meanwhile', async () => {
      const revealed: (string | undefined)[] = [];
      const selected = new vscode.EventEmitter<vscode.TreeViewSelectionChangeEvent<TreeNode>>();
      let arrive = (): void => undefined;
      let isLost = true;
      const shown = {
        visible: true,
        selection: [] as readonly TreeNode[],
        onDidChangeSelection: selected.event,
        reveal: (node: TreeNode) => {
          revealed.push(idOf(node));
          return new Promise<void>(resolve => {
            arrive = () => {
              shown.selection = isLost ? [] : [node];
              resolve();
            };
          });
        },
      };
      const view = shown as unknown as vscode.TreeView<TreeNode>;
      // The extension's class: this suite is another bundle, whose classes of rows are others.
      const Selection = extension.selection.constructor as typeof LayerSelection;
      const selection = new Selection(extension.modelsTree, view);
      const told: (readonly string[])[] = [];
      const others: (readonly string[])[] = [];
      selection.onDidSelect(({ layers: names, by }) => (by ? others : told).push(names));
      const rowOf = (layer: string) => {
        const row = extension.modelsTree.nodeOf(folder, layer);
        assert.ok(row);
        return row;
      };
      const all = layers.map(layer => layer.name);
      const first = selection.select(folder, all, {});
      for (const names of [[mildUp.name], [worstDown.name], [worstDown.name]]) {
        await selection.select(folder, names, {});
      }
      arrive();
      await until('the second row', () => revealed[1]);
      // The tree is being read anew: the row is not found, and nothing says so.
      arrive();
      await until('the second row once more', () => revealed[2]);
      isLost = false;
      arrive();
      await first;
      assert.deepEqual(revealed, [all.at(-1) ?? '', worstDown.name, worstDown.name].map(layer => idOf(rowOf(layer))));
      selected.fire({ selection: [rowOf(worstDown.name)] });
      assert.deepEqual(told, [], 'the window may say it late');
      shown.selection = [rowOf(mildUp.name)];
      selected.fire({ selection: shown.selection });
      assert.deepEqual(told, [[mildUp.name]]);
      const again = selection.select(folder, [worstDown.name], {});
      arrive();
      await again;
      assert.equal(revealed.length, 4, 'the user had gone elsewhere');
      assert.deepEqual(others, [all, [mildUp.name], [worstDown.name], [worstDown.name], [worstDown.name]], 'other views are told each time');
      selection.dispose();
    });

    it('does what it is asked, to layers of its own profile only', async () => {
      const page = new Page(extension, file);
      await page.ask('ready');
      const picked = [mildUp.name, 'lm_head'];
      for (const method of ['tensorizeLayers', 'excludeLayers', 'profileLayers', 'planCompression'] as const) {
        assert.equal(await page.ask(method, { layers: picked, ...(method === 'planCompression' && { argument: '60%' }) }), null, method);
      }
      assert.equal(await page.ask('revealLayer', { argument: mildUp.name }), null);
      assert.deepEqual(page.done, [`tensorize ${folder} ${mildUp.name}`, `exclude ${folder} ${file} ${mildUp.name}`, `profile ${folder} ${mildUp.name} ${file}`, `plan ${folder} ${file} 60%`, `revealLayer ${folder} ${mildUp.name}`]);
      assert.match((await page.ask('tensorizeLayers', { layers: ['lm_head'] })) ?? '', /Select layers/);
      assert.match((await page.ask('cancelRun')) ?? '', /No run is at work/);
      assert.match((await page.ask('openFolder', { argument: '/' })) ?? '', /does not serve openFolder/);
      const before = page.sent.length;
      page.post({ id: 99, method: 'deleteEverything' });
      page.post('ready');
      assert.equal(await page.ask('copyText', { argument: 'layer,chi' }), null);
      assert.equal(await vscode.env.clipboard.readText(), 'layer,chi');
      assert.equal(page.sent.length, before + 1, 'what is not valid is not answered');
      page.close();
    });

    it('lays over it the plan that is open, as it is typed, else the one that was changed last', async () => {
      const plan = (column: string, keep: number, of = path.basename(file)) =>
        JSON.stringify({ model: 'tiny-profiled', output: 'out', budget: { profile: of, target: '60%' }, tensorize: [{ layers: [name(0, column)], keep }] });
      const at = (called: string) => path.join(workspaceFolder(), `${called}.bondwise.json`);
      const predicted = { parameters: 1, bytes: 2, loss: 0.1, loss_error: 0.01 };
      await writeFile(at('older'), plan('mlp.up_proj', 0.5));
      await utimes(at('older'), 1, 1);
      await writeFile(at('other'), plan('mlp.up_proj', 0.5, 'other.sensitivity.json'));
      const page = new Page(extension, file);
      await page.ask('ready');
      const now = () => page.of('plan').at(-1);
      const told = (what: string, isSo: (message: ReturnType<typeof now>) => boolean) => until(what, () => (isSo(now()) ? true : undefined));
      const up = (part: number) => ({ [mildUp.name]: part });
      await told('the only one', message => message?.name === 'older');
      // χ·(64 − χ) parameters of 768: χ 6 is the last within a half, χ 3 within a quarter.
      const [half, quarter] = [348 / 768, 183 / 768];
      assert.deepEqual(now(), { type: 'plan', name: 'older', layers: up(half), plan: null });
      assert.ok(page.done.some(done => done.startsWith('exchange ')));

      await writeFile(at('newer'), plan('mlp.down_proj', 0.5));
      await told('the newer one', message => message?.name === 'newer');
      const editor = await vscode.window.showTextDocument(vscode.Uri.file(at('older')), { preview: false });
      await told('the one in the editor', message => message?.name === 'older');
      const type = (text: string) => editor.edit(edit => edit.replace(new vscode.Range(0, 0, editor.document.lineCount, 0), text));
      await type(plan('mlp.up_proj', 0.25));
      await told('what was typed', message => message?.layers?.[mildUp.name] === quarter);
      await type('{ "model": ');
      const count = page.of('plan').length;
      await new Promise(resolve => setTimeout(resolve, 700));
      assert.equal(page.of('plan').length, count, 'a text that is no plan changes nothing');
      await type(JSON.stringify({ ...(JSON.parse(plan('mlp.up_proj', 0.25)) as object), predicted }));
      await vscode.commands.executeCommand('workbench.action.revertAndCloseActiveEditor');
      await told('closed, the newer one', message => message?.name === 'newer');
      await rm(at('newer'));
      await told('deleted, the older one as it was saved', message => message?.name === 'older' && message.layers?.[mildUp.name] === half);
      await rm(at('older'));
      await told('none', message => message?.name === null);
      assert.deepEqual(now(), { type: 'plan', name: null, layers: null, plan: null });
      page.close();
      await rm(at('other'));
    });

    it('follows the file, and says what is wrong with it', async () => {
      const page = new Page(extension, file);
      await page.ask('ready');
      const text = JSON.stringify(profile);
      await writeFile(file, text.slice(0, text.indexOf('"cells"') + 40));
      const cut = await until('the cut file', () => page.of('sensitivity')[1]);
      assert.match(cut.notes?.[0] ?? '', /cut off or damaged; what can be read is shown: 8 layers, 8 curves, 0 measured cells/);
      await writeFile(file, JSON.stringify({ ...profile, model: { ...profile.model, fingerprint: '0'.repeat(64) } }));
      const changed = await until('the other model', () => page.of('sensitivity')[2]);
      assert.match(changed.notes?.[0] ?? '', /tiny-profiled has changed since it was profiled/);
      await until('no badge from another state', () => (extension.profiles.sensitivity(folder) ? undefined : true));
      await writeFile(file, text);
      await until('whole again', () => page.of('sensitivity')[3]);
      page.close();
      const nothing = new Page(extension, path.join(workspaceFolder(), 'not-there.sensitivity.json'));
      assert.match((await nothing.ask('ready')) ?? '', /not-there\.sensitivity\.json is not there/);
      nothing.close();
    });

    it('fills while the run goes on that has not written its file yet', async () => {
      const output = path.join(workspaceFolder(), 'growing.sensitivity.json');
      const head: Sensitivity = { ...profile, curves: [], cells: [], baseline: {}, complete: false };
      const status = { state: 'running', phase: 'Calibrating', process: (await identify(process.pid)) ?? null } as const;
      const directory = await writeRun(path.join(workspaceFolder(), '.bondwise', 'runs'), '20260101-000000-profile-000001', { kind: 'profile', title: 'Profile tiny', model: folder, options: { output } }, status);
      await until('the run is seen', () => extension.runs.get(directory));
      await extension.heatmaps.show(output);
      await until('an editor of a file that is not there', () => extension.heatmaps.open.find(panel => panel.file === output));
      const page = new Page(extension, output);
      assert.equal(await page.ask('ready'), null);
      assert.deepEqual(page.of('profileRun').map(({ status: told }) => told?.phase), ['Calibrating']);
      assert.deepEqual(page.of('sensitivity'), []);

      let seq = 0;
      const journal = async (...events: readonly Omit<RunEvent, 'seq' | 'time'>[]) => {
        const lines = events.map(event => JSON.stringify({ seq: ++seq, time: '2026-01-01T00:00:00Z', ...event }));
        await appendFile(path.join(directory, 'events.ndjson'), `${lines.join('\n')}\n`);
      };
      await journal({ type: 'profile', profile: head } as Omit<RunEvent, 'seq' | 'time'>);
      await until('what it covers', () => page.of('sensitivity')[0]);
      const cells = layers.map(layer => cell(layer, 4, 0.1));
      await journal(...cells.map(each => ({ type: 'cell', cell: each }) as Omit<RunEvent, 'seq' | 'time'>));
      await until('all cells', () => (page.of('cells').flatMap(message => message.cells ?? []).length === cells.length ? true : undefined));
      assert.deepEqual(page.of('cells').flatMap(message => message.cells ?? []), cells);
      assert.ok(page.of('cells').length < cells.length, 'gathered');
      assert.equal(page.of('sensitivity').length, 1, 'the whole only once');
      const details = () => extension.runsTree.getChildren(extension.runsTree.nodeOf(directory)).map(node => extension.runsTree.getTreeItem(node));
      assert.equal(details().find(({ label }) => label === 'Cells')?.description, '8 measured of 16');
      assert.equal(await page.ask('cancelRun'), null);
      assert.deepEqual(page.done, [`cancelRun ${directory}`]);

      await writeFile(output, JSON.stringify({ ...head, cells, complete: true }));
      await writeStatus(directory, { state: 'done' });
      const last = await until('the file', () => page.of('sensitivity')[1]);
      assert.equal(last.profile.complete, true);
      assert.equal(page.of('profileRun').at(-1)?.status, null);
      page.close();
      await vscode.window.tabGroups.close(tabs());
      await rm(directory, { recursive: true });
      await rm(output);
    });

    it('saves what it has made under a name that is no place', () => {
      assert.equal(safeName('../../a:b.csv'), 'a-b.csv');
      assert.equal(safeName('..\\.hidden'), 'hidden');
      assert.equal(bytesOf('layer,chi\n'), 'layer,chi\n');
      assert.deepEqual(bytesOf('data:image/png;base64,iVBORw=='), Buffer.from([0x89, 0x50, 0x4e, 0x47]));
      assert.throws(() => bytesOf('data:text/html,<script>'), /not a data URL of base64/);
    });
  });

  describe('Profile Sensitivity…', () => {
    const chosen = () => {
      const dense = model.blocks.flatMap(block => block.layers);
      return { model, layers: dense, patterns: dense.map(layer => layer.name) };
    };

    it('checks sizes and tasks as they are typed', () => {
      const typed = (text: string) => sizeItems(chosen(), 'low-rank', DEFAULT_SIZES, text)[0];
      assert.equal(sizeItems(chosen(), 'low-rank', DEFAULT_SIZES, '')[0]?.description, '32 cells');
      assert.deepEqual(typed('50% 25%')?.value, { keep: [0.5, 0.25] });
      assert.equal(typed('17')?.value, undefined);
      assert.match(typed('17')?.label ?? '', /χ 17 is above 16/);
      assert.equal(metricItems('hellaswag')[0]?.value, 'task:hellaswag');
      assert.equal(metricItems('rm -rf')[0]?.value, undefined);
      assert.equal(metricItems('').filter(({ value }) => value !== undefined).length, 3);
      assert.equal(sequencesMessage('8'), undefined);
      assert.ok(['', '0', '-1', '1.5', 'x'].every(text => sequencesMessage(text) !== undefined));
    });

    it('asks the engine for exactly that, and adds to a profile that it fits', () => {
      const choices = { chosen: chosen(), mode: 'measured', sizes: DEFAULT_SIZES, metric: 'kl', data: 'builtin', sequences: 8, length: 512, sites: 'low-rank' } as const;
      const request = profileRequest(model, choices, file);
      assert.ok(isRunRequest(request), JSON.stringify(isRunRequest.errors));
      assert.equal(request.title, 'Profile tiny-profiled, measured at 75% 50% 30% 10%');
      assert.deepEqual(request.options, { mode: 'measured', layers: ['*'], keep: [0.75, 0.5, 0.3, 0.1], sites: 'low-rank', metric: 'kl', data: 'builtin', sequences: 8, length: 512, output: file });
      const [first] = choices.chosen.layers;
      assert.ok(first);
      const one = profileRequest(model, { ...choices, mode: 'spectral', chosen: { ...choices.chosen, layers: [first], patterns: [first.name] } }, file);
      assert.deepEqual('layers' in one.options && one.options.layers, [first.name]);
      assert.ok(canAddTo(profile, choices));
      assert.ok(!canAddTo(profile, { ...choices, sites: 3 }) && !canAddTo(profile, { ...choices, data: '/text.txt' }) && !canAddTo(profile, { ...choices, sequences: 16 }));
    });
  });
});
