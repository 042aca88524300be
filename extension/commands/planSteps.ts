/** The lists of “Plan Compression…”: what may stay dense, and what each budget would give. */
import path from 'node:path';
import { readFile } from 'node:fs/promises';
import * as vscode from 'vscode';
import type { Layer, Model } from '../checkpoint/index.ts';
import { asksForNothing, type Budget, type Exchange, parseBudget, pointAt } from '../plan/budget.ts';
import type { Method } from '../plan/choices.ts';
import { Plan, PLAN_SUFFIX } from '../plan/planFile.ts';
import { matcher, selectLayers } from '../plan/selectors.ts';
import type { ExchangePoint, Sensitivity } from '../protocol/types.ts';
import { isMissing } from '../runs/files.ts';
import { formatBytes, formatParameters, formatPercent } from '../runs/format.ts';
import { formatMeasured, perplexityRange } from '../views/measured.ts';
import { oneLine } from '../views/text.ts';
import { errorText } from './register.ts';

export interface ExclusionItem extends vscode.QuickPickItem {
  /** Absent on separators. */
  readonly pattern?: string;
}

export interface BudgetItem extends vscode.QuickPickItem {
  /** As the engine reads it; absent on what cannot be chosen. */
  readonly target?: string;
}

export interface MethodItem extends vscode.QuickPickItem {
  readonly method: Method;
}

const SHARES = [0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.5, 0.4, 0.3];

/** How the cores of the planned layers can be found. */
export function methodItems(): readonly MethodItem[] {
  return [
    { label: vscode.l10n.t('Data-aware'), detail: vscode.l10n.t('Cores that fit what each layer does on a text: far better than plain, minutes longer.'), method: 'fisher' },
    { label: vscode.l10n.t('In sequence'), detail: vscode.l10n.t('Each layer fitted to the compressed ones before it: best for many, several times longer.'), method: 'sequential' },
    { label: vscode.l10n.t('Plain'), detail: vscode.l10n.t('Cores from the weights alone, as the profile’s cells were measured.'), method: 'plain' },
  ];
}

/** What is excluded now, what else is worth excluding, each with the layers that it matches. */
export function exclusionItems(profile: Pick<Sensitivity, 'layers'>, excluded: readonly string[]): readonly ExclusionItem[] {
  const item = (pattern: string): ExclusionItem => ({ label: pattern, description: matchText(profile, pattern), pattern });
  const blocks = [...new Set(profile.layers.map(layer => layer.block))];
  const ends = [blocks[0], blocks.at(-1)].flatMap(block => {
    const first = profile.layers.find(layer => layer.block === block);
    return first?.name.endsWith(first.column) ? [`${first.name.slice(0, -first.column.length)}*`] : [];
  });
  const columns = [...new Set(profile.layers.map(layer => layer.column))].map(column => `*.${column}`);
  const others = [...new Set([...ends, ...columns])].filter(pattern => !excluded.includes(pattern));
  const { Separator } = vscode.QuickPickItemKind;
  return [
    ...(excluded.length > 0 ? [{ label: vscode.l10n.t('proposed'), kind: Separator }, ...excluded.map(item)] : []),
    ...(others.length > 0 ? [{ label: vscode.l10n.t('more'), kind: Separator }, ...others.map(item)] : []),
  ];
}

export function exclusionsText(profile: Pick<Sensitivity, 'layers'>, checked: readonly ExclusionItem[]): string {
  const patterns = checked.flatMap(({ pattern }) => pattern ?? []);
  const dense = matching(profile, patterns);
  return vscode.l10n.t('Stay dense: {0} of {1} layers, {2} parameters', dense.length, profile.layers.length, formatParameters(sum(dense)));
}

/** Why a pattern will not do, or what it matches. */
export function exclusionMessage(model: Pick<Model, 'blocks'>, pattern: string): vscode.InputBoxValidationMessage {
  const { Error, Info } = vscode.InputBoxValidationSeverity;
  if (pattern === '') {
    return { message: vscode.l10n.t('Type a pattern.'), severity: Error };
  }
  try {
    const layers: readonly Layer[] = selectLayers(model, [pattern]);
    return { message: vscode.l10n.t('Matches {0} layers: {1}', layers.length, oneLine(layers.map(layer => layer.name).join(', '), 120)), severity: Info };
  } catch (error) {
    return { message: errorText(error), severity: Error };
  }
}

/** Sizes along the exchange curve; what is typed comes alone, with its figures or with what is wrong about it. */
export function budgetItems(plan: Exchange, typed: string): readonly BudgetItem[] {
  const own = parseBudget(typed);
  if (own) {
    return [{ ...(('problem' in own ? undefined : budgetItem(plan, own, typed.trim())) ?? problemItem('problem' in own ? own : pointAt(plan, own))), alwaysShow: true }];
  }
  const smallest = plan.exchange.at(-1);
  const least = smallest ? Math.ceil((1000 * smallest.parameters) / plan.original_parameters) / 1000 : 0;
  const shares = [...SHARES.filter(share => share > least), ...(least > 0 && least < 1 ? [least] : [])];
  return shares.flatMap(share => budgetItem(plan, { unit: 'parameters', share }, `${Number((share * 100).toPrecision(3))}%`) ?? []);
}

/** What is wrong with a name for the plan's file, or what will happen to the one that is there. */
export async function checkPlanName(folder: string, name: string): Promise<vscode.InputBoxValidationMessage | undefined> {
  const { Error, Info } = vscode.InputBoxValidationSeverity;
  const stem = withoutSuffix(name);
  if (stem === '' || /[\\/:*?"<>|\p{Cc}]/u.test(stem) || stem.startsWith('.')) {
    return { message: vscode.l10n.t('Type a file name without / \\ : * ? " < > | and without a dot at the start.'), severity: Error };
  }
  const file = path.join(folder, stem + PLAN_SUFFIX);
  try {
    new Plan(await readFile(file, 'utf8'), path.basename(file));
    return { message: vscode.l10n.t('“{0}” is there: its rules, budget and prediction are replaced, your comments stay.', path.basename(file)), severity: Info };
  } catch (error) {
    return isMissing(error) ? undefined : { message: vscode.l10n.t('“{0}” is there and cannot be changed. {1}', path.basename(file), errorText(error)), severity: Error };
  }
}

export function withoutSuffix(name: string): string {
  return name.endsWith(PLAN_SUFFIX) ? name.slice(0, -PLAN_SUFFIX.length) : name;
}

function budgetItem(plan: Exchange, budget: Budget, target: string): BudgetItem | undefined {
  const point = pointAt(plan, budget);
  if ('problem' in point) {
    return undefined;
  }
  if (asksForNothing(plan, point)) {
    return { label: `$(info) ${vscode.l10n.t('{0} asks for nothing: the model is that small already.', target)}` };
  }
  const share = formatPercent(point.parameters / plan.original_parameters);
  return {
    label: target,
    description: [...(share === target ? [] : [share]), vscode.l10n.t('{0} parameters', formatParameters(point.parameters)), formatBytes(point.bytes)].join(' · '),
    detail: lossText(point),
    target,
  };
}

function lossText({ loss, loss_error, perplexity }: ExchangePoint): string {
  return typeof perplexity === 'number'
    ? vscode.l10n.t('Predicted perplexity {0}', perplexityRange(perplexity / Math.exp(loss), loss, loss_error))
    : vscode.l10n.t('The loss is predicted to rise by {0} nats a token', formatMeasured(loss, loss_error));
}

function problemItem(found: ReturnType<typeof pointAt> | { readonly problem: string; readonly remedy: string }): BudgetItem {
  const { problem, remedy } = 'problem' in found ? found : { problem: '', remedy: '' };
  return { label: `$(error) ${problem.replaceAll('$(', '(')}`, detail: remedy };
}

function matchText(profile: Pick<Sensitivity, 'layers'>, pattern: string): string {
  const layers = matching(profile, [pattern]);
  const count = layers.length === 1 ? vscode.l10n.t('1 layer') : vscode.l10n.t('{0} layers', layers.length);
  return vscode.l10n.t('{0}, {1} parameters', count, formatParameters(sum(layers)));
}

function matching(profile: Pick<Sensitivity, 'layers'>, patterns: readonly string[]): readonly { readonly parameters: number }[] {
  const tests = patterns.map(matcher);
  return profile.layers.filter(({ name }) => tests.some(matches => matches(name)));
}

function sum(layers: readonly { readonly parameters: number }[]): number {
  return layers.reduce((total, { parameters }) => total + parameters, 0);
}
