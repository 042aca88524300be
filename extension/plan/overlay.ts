/** What a plan makes of the layers that a profile covers, to be laid over its heatmap. */
import path from 'node:path';
import type { Curve, PlanFile, PlanResult, ProfileLayer, Sensitivity, TensorizeRule } from '../protocol/types.ts';
import { bondDimsForChi, bondDimsForKeep, layerModes, type Modes, parameterCount } from './choices.ts';
import { matcher, SelectorError } from './selectors.ts';

/** Whether a plan is about a profile: its budget says so, or it has none and is for the profile's model. Paths are absolute. */
export function isPlanFor({ budget, model }: Pick<PlanFile, 'budget' | 'model'>, planFile: string, profile: { readonly file: string; readonly folder: string | undefined }): boolean {
  const at = (relative: string) => path.resolve(path.dirname(planFile), relative);
  return budget ? at(budget.profile) === profile.file : at(model) === profile.folder;
}

/** Part kept of each layer of the profile that the plan compresses; where a rule asks for an error, as the curve predicts. */
export function keptBy({ tensorize }: { readonly tensorize?: readonly TensorizeRule[] }, { layers, curves = [] }: Pick<Sensitivity, 'layers' | 'curves'>): Readonly<Record<string, number>> {
  const kept: Record<string, number> = {};
  for (const { rule, matches } of (tensorize ?? []).map(each => ({ rule: each, matches: matchesOf(each) }))) {
    for (const layer of layers.filter(({ name }) => !(name in kept) && matches(name))) {
      const part = partOf(rule, layer, curves.find(curve => curve.layer === layer.name));
      if (part !== undefined) {
        kept[layer.name] = part;
      }
    }
  }
  return kept;
}

/**
 * The plan as the planner's answer to another budget of the same profile shows it, with the sizes that it could have; undefined where the
 * rules are no longer those that the planner predicted.
 */
export function resultOf({ predicted }: Pick<PlanFile, 'predicted'>, layers: Readonly<Record<string, number>>, profile: Pick<Sensitivity, 'layers'>, answer: PlanResult): PlanResult | undefined {
  const saved = profile.layers.reduce((sum, { name, parameters }) => sum + Math.round((1 - (layers[name] ?? 1)) * parameters), 0);
  if (predicted?.parameters !== answer.original_parameters - saved) {
    return undefined;
  }
  return { ...answer, parameters: predicted.parameters, bytes: predicted.bytes, predicted, layers: { ...layers } };
}

function matchesOf({ layers, exclude = [] }: TensorizeRule): (name: string) => boolean {
  const [wanted, unwanted] = [layers, exclude].map(patterns => patterns.flatMap(matcherOf));
  return name => wanted?.some(matches => matches(name)) === true && unwanted?.some(matches => matches(name)) !== true;
}

/** A pattern that cannot be read matches nothing here; “Run Plan” says what is wrong with it. */
function matcherOf(pattern: string): ((name: string) => boolean)[] {
  try {
    return [matcher(pattern)];
  } catch (error) {
    if (error instanceof SelectorError) {
      return [];
    }
    throw error;
  }
}

function partOf(rule: TensorizeRule, { shape: [out = 0, inner = 0], parameters }: ProfileLayer, curve: Curve | undefined): number | undefined {
  if (typeof rule.error === 'number') {
    const { error } = rule;
    const index = curve?.error.findIndex(each => each <= error) ?? -1;
    const found = curve?.parameters[index];
    return found === undefined ? undefined : found / parameters;
  }
  try {
    const modes = rule.out_modes && rule.in_modes ? { out: rule.out_modes, in: rule.in_modes } : layerModes(out, inner, rule.sites ?? 'low-rank');
    return parameterCount(modes, bondsOf(rule, modes, parameters)) / parameters;
  } catch (error) {
    if (error instanceof RangeError) {
      return undefined;
    }
    throw error;
  }
}

function bondsOf({ chi, keep }: TensorizeRule, modes: Modes, parameters: number): readonly number[] {
  return typeof chi === 'number' ? bondDimsForChi(modes, chi) : bondDimsForKeep(modes, keep ?? 1, parameters);
}
