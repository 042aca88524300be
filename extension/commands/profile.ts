/** “Profile Sensitivity…”: from a model, or some of its layers, to a run, and the heatmap that it fills. */
import path from 'node:path';
import * as vscode from 'vscode';
import type { Model } from '../checkpoint/index.ts';
import { selectLayers } from '../plan/selectors.ts';
import { profileFile } from '../profile/matching.ts';
import { type ProfileSizes, sizesText } from '../profile/sizes.ts';
import type { ProfileOptions, ProfileRequest, Sensitivity } from '../protocol/types.ts';
import { withChanges } from '../runs/changes.ts';
import type { RunStore } from '../runs/store.ts';
import type { ModelList } from '../views/modelList.ts';
import { canTensorize } from '../views/modelNodes.ts';
import type { ProfileEntry, ProfileList } from '../views/profileList.ts';
import { oneLine } from '../views/text.ts';
import { BUILTIN } from './calibrationText.ts';
import { withConsent } from './consent.ts';
import type { EngineCommands } from './engine.ts';
import { pickModel } from './pickLayers.ts';
import { askProfile, type ProfileChoices } from './profileSteps.ts';
import { askAll, taken } from './quickInput.ts';
import { evaluateOptions, requestBase, runRootFor, startRun } from './startRun.ts';
import { chosenBy, type Chosen } from './tensorize.ts';
import { describeLayers } from './tensorizeSteps.ts';

export interface ProfileParts {
  readonly context: vscode.ExtensionContext;
  readonly models: ModelList;
  readonly profiles: ProfileList;
  readonly runs: RunStore;
  readonly engine: EngineCommands;
  readonly storage: vscode.Uri;
  readonly showSensitivity: (file: string) => Promise<void>;
}

/**
 * @param args of a context menu: the row, and all selected rows; or a model's folder; or nothing, from the palette. Then, from a heatmap, the
 * profile to add to.
 */
export async function profileSensitivity(parts: ProfileParts, args: readonly unknown[]): Promise<void> {
  const [first, , addTo] = args;
  const named = typeof first === 'string' ? await wholeModel(parts.models, first) : chosenBy(args);
  const chosen = named ?? (await askModel(parts.models));
  if (!chosen) {
    return;
  }
  await askAndStart(parts, chosen, { askLayers: !named, addTo });
}

/** The questions again, with the answers of an earlier run. */
export async function profileAgain(parts: ProfileParts, model: Model, before: ProfileRequest): Promise<void> {
  const { layers: patterns = ['*'], exclude = [], mode = 'measured', keep = [], chi = [], metric = 'perplexity', data = BUILTIN, sequences, length, sites = 'low-rank', output } = before.options;
  const layers = selectLayers(model, patterns, exclude).filter(canTensorize);
  const sizes: ProfileSizes | undefined = keep.length > 0 ? { keep } : chi.length > 0 ? { chi } : undefined;
  const proposed = { mode, metric, data, sites, ...(sizes && { sizes }), ...(sequences !== undefined && { sequences }), ...(length !== undefined && { length }) };
  await askAndStart(parts, { model, layers, patterns: layers.map(layer => layer.name) }, { askLayers: false, addTo: output, before, proposed });
}

interface Asked {
  readonly askLayers: boolean;
  /** A profile's file. */
  readonly addTo: unknown;
  readonly before?: ProfileRequest;
  readonly proposed?: Partial<ProfileChoices>;
}

async function askAndStart(parts: ProfileParts, chosen: Chosen, { askLayers, addTo, before: earlier, proposed }: Asked): Promise<void> {
  const { model } = chosen;
  const known = (await parts.profiles.ofModel(model.folder)).filter(entry => entry.profile !== undefined);
  const before = known.find(({ file }) => file === addTo) ?? known[0];
  const choices = await askProfile({ chosen, askLayers, defaults: before?.profile, ...(proposed && { proposed }), length: evaluateOptions(vscode.Uri.file(model.folder)).length ?? 512 });
  if (!choices) {
    return;
  }
  const output = await outputFor(parts.profiles, model, choices, before);
  const asked = profileRequest(model, choices, output);
  const request = await withConsent(parts.context, model, earlier ? withChanges(earlier, asked) : asked);
  const directory = request && (await startRun(parts.engine, parts.runs, runRootFor(model.folder, parts.storage), request));
  if (directory !== undefined) {
    await parts.showSensitivity(output);
  }
}

/** What is asked of the engine. */
export function profileRequest(model: Model, { chosen, mode, sizes, metric, data, sequences, length, sites }: ProfileChoices, output: string): ProfileRequest {
  const [first, ...more] = allOf(model).length === chosen.layers.length ? ['*'] : chosen.patterns;
  const what = first === '*' ? oneLine(model.name, 60) : describeLayers(model, chosen.layers);
  const title = mode === 'spectral' ? vscode.l10n.t('Profile {0}, predicted', what) : vscode.l10n.t('Profile {0}, measured at {1}', what, oneLine(sizesText(sizes), 60));
  return {
    kind: 'profile',
    ...requestBase(title, vscode.Uri.file(model.folder)),
    model: model.folder,
    options: {
      mode,
      layers: [first ?? '*', ...more],
      ...('keep' in sizes ? { keep: [...sizes.keep] } : { chi: [...sizes.chi] }),
      sites,
      ...(mode === 'measured' ? { metric } : {}),
      data,
      sequences,
      length,
      output,
    } satisfies ProfileOptions,
  };
}

/** Whether a run can add to a profile: the same model, on the same text, cut into the same sites. */
export function canAddTo(profile: Sensitivity, { data, sites, length, sequences }: Pick<ProfileChoices, 'data' | 'sites' | 'length' | 'sequences'>): boolean {
  return profile.data === data && profile.sites === sites && profile.length === length && profile.sequences === sequences && profile.seed === 0;
}

/** The profile that there is, where the new figures fit it; else beside the model, if that is in the workspace. */
export async function outputFor(profiles: ProfileList, model: Model, choices: ProfileChoices, before: ProfileEntry | undefined): Promise<string> {
  const fits = async ({ file, profile, problem, notes }: ProfileEntry) => {
    if (!profile || notes.length > 0) {
      // The engine adds to whole files only.
      return notes.length === 0 && problem === undefined;
    }
    const home = await profiles.homeOf({ file, profile, notes: [] });
    return home?.same === true && home.folder === model.folder && canAddTo(profile, choices);
  };
  if (before && (await fits(before))) {
    return before.file;
  }
  return profileFile(profileFolder(model.folder), model.name, async file => fits(await profiles.read(file)));
}

function profileFolder(folder: string): string {
  const parent = path.dirname(folder);
  if (vscode.workspace.getWorkspaceFolder(vscode.Uri.file(parent))) {
    return parent;
  }
  const place = vscode.workspace.getWorkspaceFolder(vscode.Uri.file(folder)) ?? vscode.workspace.workspaceFolders?.[0];
  return place?.uri.fsPath ?? parent;
}

export async function wholeModel(models: ModelList, folder: string): Promise<Chosen> {
  await models.ready();
  const entry = models.get(folder) ?? (await models.add(folder));
  if (!entry?.model) {
    throw new Error(entry?.problem?.message ?? vscode.l10n.t('{0} is not there any more.', folder));
  }
  return wholeOf(entry.model);
}

function wholeOf(model: Model): Chosen {
  const layers = allOf(model);
  if (layers.length === 0) {
    throw new Error(vscode.l10n.t('{0} has no dense layers to profile.', model.name));
  }
  return { model, layers, patterns: layers.map(layer => layer.name) };
}

async function askModel(models: ModelList): Promise<Chosen | undefined> {
  await models.ready();
  const offered = models.entries.flatMap(({ model }) => (model && allOf(model).length > 0 ? [model] : []));
  const [only] = offered;
  if (!only) {
    throw new Error(vscode.l10n.t('There is no model with dense layers in this window. Add one with “Bondwise: Add Model…”.'));
  }
  if (offered.length === 1) {
    return wholeOf(only);
  }
  let model: Model | undefined;
  const title = vscode.l10n.t('Profile sensitivity: which model');
  await askAll([
    async position =>
      taken(await pickModel(offered, { ...position, title }), answer => {
        model = answer;
      }),
  ]);
  return model && wholeOf(model);
}

function allOf(model: Model) {
  return model.blocks.flatMap(block => block.layers).filter(canTensorize);
}
