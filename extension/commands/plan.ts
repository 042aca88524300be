/** “Plan Compression…”: from a model and its profile to a plan file. */
import { randomBytes } from 'node:crypto';
import { access, readFile, rm } from 'node:fs/promises';
import path from 'node:path';
import * as vscode from 'vscode';
import { type Model, openModel } from '../checkpoint/index.ts';
import { runEngine } from '../engine/command.ts';
import type { Environment } from '../engine/find.ts';
import { fillPlan } from '../plan/editPlan.ts';
import type { Asked } from '../panels/sensitivityPanel.ts';
import type { Method } from '../plan/choices.ts';
import { Plan, PLAN_SUFFIX } from '../plan/planFile.ts';
import { isPlanResult } from '../protocol/validate.js';
import type { PlanResult, Sensitivity } from '../protocol/types.ts';
import type { ModelList } from '../views/modelList.ts';
import { isTreeNode, modelOf, type TreeNode } from '../views/modelNodes.ts';
import type { ProfileList } from '../views/profileList.ts';
import { oneLine } from '../views/text.ts';
import { chosenText, pickMethod } from './calibrationText.ts';
import type { EngineCommands } from './engine.ts';
import { budgetItems, checkPlanName, exclusionItems, exclusionMessage, exclusionsText, methodItems, withoutSuffix } from './planSteps.ts';
import { type Answer, askAll, askText, BACK, OTHER, pickMany, pickOne, type Position, type Step, taken } from './quickInput.ts';
import { chooseModel, chooseProfile, offerProfile } from './sensitivity.ts';

export interface PlanParts {
  readonly models: ModelList;
  readonly profiles: ProfileList;
  readonly view: vscode.TreeView<TreeNode>;
  readonly engine: EngineCommands;
}

/** From which model and profile; `exclude` are layers that the user has taken out before, `target` the budget that was pointed at. */
export interface PlanQuestion {
  readonly folder: string;
  readonly profile?: string;
  readonly exclude?: readonly string[];
  readonly target?: string;
}

/** The budget that takes nothing away: asked for the exchange curve, which is the same for all. */
const EVERYTHING = '100%';

interface Choices {
  readonly method: Method;
  readonly exclude: readonly string[];
  readonly target: string;
  readonly name: string;
}

/** What the engine is asked to plan. */
export interface Wanted {
  readonly folder: string;
  readonly profile: string;
  readonly target: string;
  /** Undefined for the engine's own proposal. */
  readonly exclude?: readonly string[];
  /** Undefined for the plain one. */
  readonly method?: Method;
  /** What the method learns from; undefined for the profile's text. */
  readonly calibration?: string | undefined;
}

/** @param args of a context menu: the row; or a `PlanQuestion`; or nothing, from the palette. */
export async function planCompression(parts: PlanParts, [first]: readonly unknown[]): Promise<void> {
  const question = questionOf(first) ?? (await askModel(parts));
  const profile = question && (await profileFor(parts, question));
  if (!profile) {
    return;
  }
  const environment = await parts.engine.require();
  if (!environment) {
    return;
  }
  const { folder } = question;
  const model = parts.models.get(folder)?.model ?? (await openModel(folder));
  const look = async (asked: Pick<Wanted, 'exclude' | 'method'>) =>
    vscode.window.withProgress({ location: vscode.ProgressLocation.Window, title: vscode.l10n.t('Planning') }, () =>
      planOf(environment, { folder, profile: profile.file, target: EVERYTHING, ...asked }),
    );
  const proposed = await look({});
  const choices = await askChoices(model, profile.profile, [...new Set([...(proposed.exclude ?? []), ...(question.exclude ?? [])])], question.target, look);
  if (!choices) {
    return;
  }
  const file = path.join(path.dirname(folder), choices.name + PLAN_SUFFIX);
  await writePlan(environment, { folder, profile: profile.file, target: choices.target, exclude: choices.exclude, method: choices.method, calibration: choices.method === 'plain' ? undefined : chosenText(vscode.Uri.file(folder)) }, file);
  await vscode.window.showTextDocument(await vscode.workspace.openTextDocument(file), { preview: false });
}

/** What every budget would give, where an engine is there already; nothing is asked, and nothing written. */
export async function exchangeOf(engine: EngineCommands, folder: string, profile: string, asked: Asked): Promise<PlanResult | undefined> {
  const found = vscode.workspace.isTrusted ? await engine.find() : undefined;
  return found?.python === undefined ? undefined : planOf(found, { folder, profile, target: EVERYTHING, ...asked });
}

/** Plans without writing anything. */
export async function planOf(environment: Environment, wanted: Wanted): Promise<PlanResult> {
  return runEngine(environment, [...planArguments(wanted), '--dry-run'], isPlanResult);
}

/** Writes a plan, or fills the one that is there and leaves the rest of it as it is; in its editor, if that is open, so that it can be undone. */
export async function writePlan(environment: Environment, wanted: Wanted, file: string): Promise<PlanResult> {
  const isThere = await access(file).then(
    () => true,
    () => false,
  );
  if (!isThere) {
    return runEngine(environment, [...planArguments(wanted), '--output', file], isPlanResult);
  }
  const beside = path.join(path.dirname(file), `.${path.basename(file, PLAN_SUFFIX)}-${randomBytes(4).toString('hex')}${PLAN_SUFFIX}`);
  try {
    const plan = await runEngine(environment, [...planArguments(wanted), '--output', beside], isPlanResult);
    const made = new Plan(await readFile(beside, 'utf8'), path.basename(beside)).file;
    const document = await vscode.workspace.openTextDocument(file);
    const before = document.getText();
    // Read once more: only what is a plan can be filled.
    if (new Plan(before, path.basename(file)).file.quantize.length > 0) {
      throw new Error(vscode.l10n.t('{0} quantizes layers. Choose another name for the plan that tensorizes.', path.basename(file)));
    }
    const edit = new vscode.WorkspaceEdit();
    edit.replace(document.uri, new vscode.Range(document.positionAt(0), document.positionAt(before.length)), fillPlan(before, made));
    if (!(await vscode.workspace.applyEdit(edit)) || !(await document.save())) {
      throw new Error(vscode.l10n.t('{0} could not be saved. Check that it may be written.', path.basename(file)));
    }
    return { ...plan, output: file };
  } finally {
    await rm(beside, { force: true });
  }
}

export function planArguments({ folder, profile, target, exclude, method, calibration }: Wanted): readonly string[] {
  // In one word each: a pattern may begin with a dash.
  const excluded = exclude === undefined ? [] : exclude.length === 0 ? ['--exclude-nothing'] : exclude.map(pattern => `--exclude=${pattern}`);
  return ['plan', folder, '--profile', profile, `--budget=${target}`, ...(method ? ['--method', method] : []), ...(calibration === undefined ? [] : [`--calibration=${calibration}`]), ...excluded];
}

function questionOf(first: unknown): PlanQuestion | undefined {
  if (isTreeNode(first)) {
    return { folder: modelOf(first).entry.folder };
  }
  return typeof first === 'object' && first !== null && 'folder' in first && typeof first.folder === 'string' ? (first as PlanQuestion) : undefined;
}

async function askModel(parts: PlanParts): Promise<PlanQuestion | undefined> {
  await parts.models.ready();
  const folder = await chooseModel(parts, vscode.l10n.t('Which model to plan for'));
  return folder === undefined ? undefined : { folder };
}

/** The one that is named, the only one, or the one that the user picks; where there is none, offers to make one. */
async function profileFor({ profiles }: PlanParts, { folder, profile }: PlanQuestion): Promise<{ readonly file: string; readonly profile: Sensitivity } | undefined> {
  const entry = profile === undefined ? await chooseProfile(await profiles.ofModel(folder), vscode.l10n.t('Which profile to plan from')) : await profiles.read(profile);
  if (entry === 'none') {
    await offerProfile(folder, []);
    return undefined;
  }
  if (entry && !entry.profile) {
    throw new Error(entry.problem ?? vscode.l10n.t('{0} has nothing to plan from yet. Wait until its run has got further.', path.basename(entry.file)));
  }
  return entry?.profile && { file: entry.file, profile: entry.profile };
}

async function askChoices(model: Model, profile: Sensitivity, proposed: readonly string[], pointedAt: string | undefined, look: (asked: Pick<Wanted, 'exclude' | 'method'>) => Promise<PlanResult>): Promise<Choices | undefined> {
  let method: Method = profile.sites === 'low-rank' ? 'fisher' : 'plain';
  let excluded = proposed;
  let exchange: PlanResult | undefined;
  let target: string | undefined;
  let name: string | undefined;
  const titled = (position: Pick<Position, 'step' | 'totalSteps'>): Position => ({ ...position, title: vscode.l10n.t('Plan {0}', oneLine(model.name, 60)) });
  const how: Step = async position => {
    const items = methodItems();
    const active = items.find(item => item.method === method);
    const placeholder = vscode.l10n.t('How the cores are found');
    const scope = vscode.Uri.file(model.folder);
    return taken(await pickMethod({ position: titled(position), placeholder, items, ...(active && { active }), scope, otherwise: profile.data }), item => ({ method } = item));
  };
  const dense: Step = async position => {
    const answer = await pickExclusions(model, profile, excluded, titled(position));
    if (answer !== undefined && answer !== BACK) {
      excluded = answer;
      exchange = await look({ exclude: answer, method });
    }
    return taken(answer, () => undefined);
  };
  const size: Step = async position => {
    const placeholder = vscode.l10n.t('Choose, or type a share (65%), a size (200MB) or a limit (perplexity<30)');
    const plan = exchange;
    return plan && taken(await pickOne({ position: titled(position), placeholder, items: text => budgetItems(plan, text), isAnswer: item => item.target !== undefined, ...(pointedAt === undefined ? {} : { text: pointedAt }) }), item => (target = item.target));
  };
  const folder = path.dirname(model.folder);
  const called: Step = async position => {
    const value = `${model.name}-${(target ?? '').replaceAll('%', 'pct')}`.replace(/[^\p{L}\p{N}_-]+/gu, '-');
    const prompt = vscode.l10n.t('Name of the plan in {0}; it ends in {1}', folder, PLAN_SUFFIX);
    return taken(await askText({ position: titled(position), value, prompt, validate: text => checkPlanName(folder, text) }), answer => (name = withoutSuffix(answer)));
  };
  const answered = await askAll([...(profile.sites === 'low-rank' ? [how] : []), dense, size, called]);
  return answered && target !== undefined && name !== undefined ? { method, exclude: excluded, target, name } : undefined;
}

async function pickExclusions(model: Model, profile: Sensitivity, excluded: readonly string[], position: Position): Promise<Answer<readonly string[]>> {
  const other: vscode.QuickInputButton = { iconPath: new vscode.ThemeIcon('regex'), tooltip: vscode.l10n.t('Type a pattern') };
  let proposed = excluded;
  for (;;) {
    const items = exclusionItems(profile, proposed);
    const checked = items.filter(({ pattern }) => pattern !== undefined && proposed.includes(pattern));
    const answer = await pickMany({ position, items, checked, placeholder: now => exclusionsText(profile, now), other });
    if (answer === undefined || answer === BACK) {
      return answer;
    }
    if (answer !== OTHER) {
      return answer.flatMap(({ pattern }) => pattern ?? []);
    }
    const typed = await askText({
      position,
      value: '',
      prompt: vscode.l10n.t('Layers that stay dense: a name, a glob such as {0}, or {1}', '*.v_proj', 're:layers\\.[0-3]\\..*'),
      placeholder: '*.self_attn.v_proj',
      validate: text => Promise.resolve(exclusionMessage(model, text)),
    });
    if (typed === undefined) {
      return undefined;
    }
    proposed = typed === BACK ? proposed : [...new Set([...proposed, typed])];
  }
}
