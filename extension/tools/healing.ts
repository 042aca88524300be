/** The tool that heals a compressed model. */
import path from 'node:path';
import * as vscode from 'vscode';
import { allowed, compressedModel, earlierSpeed, hardwareOf, healRequest } from '../commands/heal.ts';
import { BUILTIN } from '../commands/calibrationText.ts';
import { type HealChoices, healedName, originalOf } from '../commands/healSteps.ts';
import { checkOutput } from '../commands/tensorizeSteps.ts';
import type { Load } from '../plan/healing.ts';
import { isHealInput } from '../protocol/validate.js';
import type { HealInput } from '../protocol/types.ts';
import { formatBytes, formatDuration, formatParameters } from '../runs/format.ts';
import { shortPath } from '../views/text.ts';
import { modelNamed } from './reading.ts';
import type { Tool } from './tool.ts';
import { beginAllowed, type WorkingParts } from './working.ts';

/** Share of the loss that is distillation, as the command proposes. */
const DISTILL = 0.5;

export function healTool(parts: WorkingParts): Tool<HealInput> {
  const understood = async ({ model: named, minutes = 10, name: wished = '', measure = true }: HealInput) => {
    const model = await compressedModel(parts, (await modelNamed(parts.models, named)).folder);
    const name = wished === '' ? healedName(model) : wished;
    const taken = await checkOutput(path.dirname(model.folder), name, model);
    if (taken?.severity === vscode.InputBoxValidationSeverity.Error) {
      throw new Error(taken.message);
    }
    const choices: HealChoices = { data: [{ data: BUILTIN }], distill: DISTILL, original: originalOf(model), device: undefined, processes: 1, budget: { minutes }, name, measure };
    return { model, choices, taken };
  };
  return {
    name: 'bondwise_heal',
    isInput: isHealInput,
    working: vscode.l10n.t('Starting a run that heals a model'),
    confirm: async input => {
      const { model, choices, taken } = await understood(input);
      return {
        title: vscode.l10n.t('Heal {0}?', model.name),
        lines: [
          vscode.l10n.t('Its cores are trained for {0}, on the built-in text, towards what the original says ({1} parameters, {2}).', formatDuration(60 * (input.minutes ?? 10)), formatParameters(model.parameters), formatBytes(model.bytes)),
          vscode.l10n.t('The new folder is {0}.', shortPath(path.join(path.dirname(model.folder), choices.name))),
          ...(taken ? [taken.message] : []),
          choices.measure ? vscode.l10n.t('Original, compressed and healed model will be measured.') : vscode.l10n.t('Nothing will be measured.'),
        ],
      };
    },
    run: async input => {
      const { model, choices } = await understood(input);
      const environment = await parts.engine.require();
      if (!environment) {
        throw new Error(vscode.l10n.t('The user did not allow it: nothing was started.'));
      }
      const hardware = await hardwareOf(environment);
      const speed = (load: Load) => earlierSpeed(parts.runs.runs, load);
      return beginAllowed(parts, model, await allowed(parts, model, choices, healRequest(model, choices, hardware, speed)));
    },
  };
}
