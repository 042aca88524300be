/** The tool that stores layers of a model in fewer bits. */
import path from 'node:path';
import * as vscode from 'vscode';
import { chosenOf, quantizeRequest } from '../commands/quantize.ts';
import { needsText, quantizedName, schemeItems, type Way } from '../commands/quantizeSteps.ts';
import { checkOutput, describeLayers } from '../commands/tensorizeSteps.ts';
import type { Chosen } from '../commands/tensorize.ts';
import { withConsent } from '../commands/consent.ts';
import { selectLayers } from '../plan/selectors.ts';
import { isQuantizeInput } from '../protocol/validate.js';
import type { QuantizeInput } from '../protocol/types.ts';
import { formatDuration } from '../runs/format.ts';
import type { Run } from '../runs/run.ts';
import { shortPath } from '../views/text.ts';
import { modelNamed } from './reading.ts';
import type { Tool } from './tool.ts';
import { beginAllowed, type WorkingParts } from './working.ts';

export function quantizeTool(parts: WorkingParts): Tool<QuantizeInput> {
  const understood = async ({ model: named, scheme, layers: patterns = [], name: wished = '', measure = true }: QuantizeInput) => {
    const model = await modelNamed(parts.models, named);
    const all = patterns.length > 0 ? selectLayers(model, patterns) : model.blocks.flatMap(block => block.layers);
    const chosen = chosenOf(model, all);
    const { way, size } = wayOf(chosen, scheme);
    const name = wished === '' ? quantizedName(model, way) : wished;
    const taken = await checkOutput(path.dirname(model.folder), name, model);
    if (taken?.severity === vscode.InputBoxValidationSeverity.Error) {
      throw new Error(taken.message);
    }
    return { chosen, way, size, name, measure, taken };
  };
  return {
    name: 'bondwise_quantize',
    isInput: isQuantizeInput,
    working: vscode.l10n.t('Starting a run that quantizes layers'),
    confirm: async input => {
      const { chosen, way, size, name, measure, taken } = await understood(input);
      const { model, layers } = chosen;
      const seconds = earlierSeconds(parts.runs.runs, model.folder, way);
      return {
        title: vscode.l10n.t('Quantize {0} of {1}?', describeLayers(model, layers), model.name),
        lines: [
          vscode.l10n.t('{0} layers, {1}: {2}.', layers.length, 'scheme' in way ? way.scheme : way.budget, size),
          needsText(way) ? vscode.l10n.t('What the layers do on a calibration text decides: that takes minutes.') : vscode.l10n.t('No text is needed: that takes seconds.'),
          ...(seconds === undefined ? [] : [vscode.l10n.t('The last such run of this model took {0}.', formatDuration(seconds))]),
          vscode.l10n.t('The new folder is {0}; the original stays.', shortPath(path.join(path.dirname(model.folder), name))),
          ...(taken ? [taken.message] : []),
          measure ? vscode.l10n.t('Both models will be measured.') : vscode.l10n.t('Nothing will be measured.'),
        ],
      };
    },
    run: async input => {
      const { chosen, way, name, measure } = await understood(input);
      return beginAllowed(parts, chosen.model, await withConsent(parts.context, chosen.model, quantizeRequest(chosen, { way, name, measure })));
    },
  };
}

/** What is meant, and what it makes of the folder. @throws naming what there is. */
function wayOf({ model, layers }: Chosen, scheme: string): { readonly way: Way; readonly size: string } {
  const offered = schemeItems(model, layers, '');
  const typed = scheme.trim().toLowerCase();
  const found = offered.find(({ way }) => way && 'scheme' in way && way.scheme === typed) ?? schemeItems(model, layers, typed)[0];
  if (!found?.way) {
    const schemes = offered.flatMap(({ way }) => (way && 'scheme' in way ? [way.scheme] : []));
    throw new Error(vscode.l10n.t('“{0}” is not a size that these layers can have. Say one of {1}, or a budget such as 3.5bits or 120MB.', scheme, schemes.join(', ')));
  }
  return { way: found.way, size: found.description ?? '' };
}

/** How long the last one took that did the same to this model. */
function earlierSeconds(runs: readonly Run[], model: string, way: Way): number | undefined {
  const same = runs.find(({ request, result }) => {
    if (request?.kind !== 'quantize' || result?.kind !== 'quantize' || request.model !== model) {
      return false;
    }
    const [rule] = request.options.quantize ?? [];
    return 'scheme' in way ? rule?.scheme === way.scheme : request.options.budget?.target === way.budget;
  });
  return same?.result?.kind === 'quantize' ? same.result.seconds : undefined;
}
