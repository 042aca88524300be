/** “Copy Command”: the line that does a run in a terminal or a job script, in one process or in many. */
import os from 'node:os';
import * as vscode from 'vscode';
import { doctor } from '../engine/command.ts';
import type { Environment } from '../engine/find.ts';
import { parseSpread, type Spread, startLine } from '../engine/startCommand.ts';
import type { RunRequest } from '../protocol/types.ts';
import type { Run } from '../runs/run.ts';
import { oneLine } from '../views/text.ts';
import type { EngineCommands } from './engine.ts';
import { BACK, pickOne } from './quickInput.ts';

/** Kinds whose work several processes share. */
const SHARED: ReadonlySet<RunRequest['kind']> = new Set(['heal', 'tensorize']);

interface SpreadItem extends vscode.QuickPickItem {
  /** Absent on what is no answer. */
  readonly spread?: Spread;
}

export async function copyCommand(engine: EngineCommands, { directory, request, title }: Pick<Run, 'directory' | 'request' | 'title'>): Promise<void> {
  const environment = request && (await engine.require());
  if (!environment) {
    return;
  }
  const line = (spread: Spread) => startLine(environment, directory, spread, os.hostname());
  const spread = SHARED.has(request.kind) ? await askSpread(environment, request, title, line) : { machines: 1, processes: 1 };
  if (spread) {
    await vscode.env.clipboard.writeText(line(spread));
    const where = spread.machines > 1 ? vscode.l10n.t('Copied. Run it on each of the {0} machines; the run’s folder must be the same on all.', spread.machines) : vscode.l10n.t('Copied. It does the run, or goes on with it; this window follows.');
    vscode.window.setStatusBarMessage(where, 8000);
  }
}

/** @param gpus that the engine sees here. */
export function spreadItems(typed: string, asked: number, gpus: number, line: (spread: Spread) => string): readonly SpreadItem[] {
  const item = (spread: Spread): SpreadItem => ({ label: spreadText(spread), detail: line(spread), spread });
  const own = parseSpread(typed);
  if (typed.trim() !== '') {
    return [own ? { ...item(own), alwaysShow: true } : { label: `$(error) ${vscode.l10n.t('“{0}” is no number of processes.', oneLine(typed.replaceAll('$(', '('), 40))}`, detail: vscode.l10n.t('Type a number (4), or machines × processes (2x8).'), alwaysShow: true }];
  }
  const here = [...new Set([asked, 1, gpus])].filter(count => count > 0);
  const each = Math.max(1, gpus, asked);
  return [...here.map(processes => item({ machines: 1, processes })), item({ machines: 2, processes: each })];
}

export function spreadText({ machines, processes }: Spread): string {
  const each = processes === 1 ? vscode.l10n.t('1 process') : vscode.l10n.t('{0} processes', processes);
  return machines > 1 ? vscode.l10n.t('{0} machines, {1} on each', machines, each) : vscode.l10n.t('This machine, {0}', each);
}

async function askSpread(environment: Environment, { processes = 1 }: RunRequest, title: string, line: (spread: Spread) => string): Promise<Spread | undefined> {
  const found = await vscode.window.withProgress({ location: vscode.ProgressLocation.Window, title: vscode.l10n.t('Looking at the hardware') }, () => doctor(environment));
  const gpus = (found.devices ?? []).filter(({ device }) => device.startsWith('cuda')).length;
  const answer = await pickOne<SpreadItem>({
    position: { title: vscode.l10n.t('Copy Command: {0}', oneLine(title, 60)), step: 1, totalSteps: 1 },
    placeholder: vscode.l10n.t('Where it runs: choose, or type processes (4) or machines × processes (2x8)'),
    items: text => spreadItems(text, processes, gpus, line),
    isAnswer: ({ spread }) => spread !== undefined,
  });
  return answer === undefined || answer === BACK ? undefined : answer.spread;
}
