/** What stands below a run in the Runs view: its figures, as far as they are known. */
import path from 'node:path';
import * as vscode from 'vscode';
import type { Evaluation, HealResult, LayerFigures, QuantizedLayer, QuantizeResult, SchemeChoice, TensorizeResult } from '../protocol/types.ts';
import { formatBytes, formatDuration, formatNumber, formatParameters, formatPercent } from '../runs/format.ts';
import type { RunSummary } from '../runs/fold.ts';
import { madeFrom, madeInto } from '../runs/lineage.ts';
import { requestFacts, requestPath } from '../runs/requestFacts.ts';
import { errorOf, type Run, type RunKind, stateText } from '../runs/run.ts';
import { healFigures } from './healDetails.ts';
import { formatMeasured, formatShare } from './measured.ts';
import { planFigures } from './planDetails.ts';
import { profileFigures } from './profileDetails.ts';
import { oneLine, shortPath } from './text.ts';

export interface Detail {
  readonly id: string;
  readonly label: string;
  readonly description?: string;
  readonly icon: string;
  readonly color?: string;
  /** The whole text, where label and description cut it short. */
  readonly full?: string;
  readonly contextValue: string;
  readonly children?: readonly Detail[];
  /** The directory of the run that the row stands for, where that is another one. */
  readonly run?: string;
}

/** @param all the runs that it may have come from or gone into. */
export function runDetails(run: Run, all: readonly Run[] = []): readonly Detail[] {
  return [
    ...errors(run),
    ...warnings(run),
    ...figureDetails(run),
    ...(run.request && 'model' in run.request
      ? [{ ...plain('model', vscode.l10n.t('Model'), shortPath(requestPath(run.directory, run.request.model)), 'package'), ...runRows(madeFrom(run, all)) }]
      : []),
    ...(run.request?.kind === 'benchmark'
      ? [{ ...plain('models', vscode.l10n.t('Models'), oneLine(run.request.options.models.map(model => path.basename(model)).join(', ')), 'package'), ...runRows(madeFrom(run, all)) }]
      : []),
    ...(run.request && 'output' in run.request.options
      ? [{ ...plain('output', vscode.l10n.t('Output'), shortPath(requestPath(run.directory, run.request.options.output)), outputIcon(run.request.kind)), ...runRows(madeInto(run, all)) }]
      : []),
    ...request(run),
    ...machine(run),
  ];
}

/** What came of it. */
export function figureDetails(run: Run): readonly Detail[] {
  return [...figures(run), ...planFigures(run), ...profileFigures(run), ...healFigures(run), ...layers(run), ...quantizedLayers(run)];
}

/** Other runs below a model: what made it, or what was made of it. */
function runRows(runs: readonly Run[]): Pick<Detail, 'children'> {
  const rows = runs.map(other => ({ ...plain(`run.${other.id}`, oneLine(other.title), stateText(other.state), 'history'), contextValue: 'detail.run', run: other.directory }));
  return rows.length > 0 ? { children: rows } : {};
}

function request(run: Run): readonly Detail[] {
  if (!run.request) {
    return [];
  }
  const rows = requestFacts(run.request).map(([key, value]) => ({ ...plain(`request.${key}`, key, oneLine(value, 200), 'symbol-property'), full: value }));
  return [{ ...plain('request', vscode.l10n.t('Request'), run.created === '' ? '' : new Date(run.created).toLocaleString(vscode.env.language), 'list-tree'), children: rows }];
}

function outputIcon(kind: RunKind): string {
  return kind === 'profile' ? 'graph-scatter' : kind === 'benchmark' ? 'graph' : 'folder';
}

function errors(run: Run): Detail[] {
  const found: Detail[] = [];
  const error = run.state === 'done' ? undefined : errorOf(run);
  if (error) {
    found.push({
      id: 'error',
      label: oneLine(error.message),
      icon: 'error',
      color: 'errorForeground',
      full: error.message,
      contextValue: 'detail.error',
      ...(error.remedy ? { children: [remedy(error.remedy)] } : {}),
    });
  }
  if (run.problem !== undefined) {
    found.push({ id: 'problem', label: oneLine(run.problem), icon: 'error', color: 'errorForeground', full: run.problem, contextValue: 'detail.error' });
  }
  return found;
}

function remedy(text: string): Detail {
  return { id: 'remedy', label: oneLine(text), icon: 'lightbulb', color: 'editorLightBulb.foreground', full: text, contextValue: 'detail' };
}

function warnings(run: Run): Detail[] {
  return run.summary.warnings.map((text, i) => ({
    id: `warning.${i}`,
    label: oneLine(text),
    icon: 'warning',
    color: 'list.warningForeground',
    full: text,
    contextValue: 'detail',
  }));
}

function figures(run: Run): Detail[] {
  const { result, summary } = run;
  const found: Detail[] = [];
  if (result?.kind === 'tensorize') {
    const kept = formatShare(result.parameters / result.original_parameters);
    found.push(
      plain(
        'parameters',
        vscode.l10n.t('Parameters'),
        `${formatParameters(result.original_parameters)} → ${formatParameters(result.parameters)} (${kept})`,
        'symbol-numeric',
      ),
      plain('size', vscode.l10n.t('Size'), `${formatBytes(result.original_bytes)} → ${formatBytes(result.bytes)}`, 'database'),
    );
  }
  if (result?.kind === 'export') {
    found.push(plain('size', vscode.l10n.t('Size'), `${formatBytes(result.compressed_bytes)} → ${formatBytes(result.bytes)}`, 'database'));
  }
  const benchmark = result?.kind === 'benchmark' ? result.models : (summary.benchmark?.models ?? []);
  if (benchmark.length > 0) {
    found.push(plain('tasks', vscode.l10n.t('Tasks done'), String(benchmark.reduce((sum, model) => sum + (model.tasks?.length ?? 0), 0)), 'checklist'));
  }
  if (result?.kind === 'quantize') {
    found.push(
      plain('size', vscode.l10n.t('Size'), `${formatBytes(result.original_bytes)} → ${formatBytes(result.bytes)} (${formatShare(result.bytes / result.original_bytes)})`, 'database'),
      {
        ...plain('bits', vscode.l10n.t('Bits'), vscode.l10n.t('{0} a parameter · {1} in what was quantized', result.bits_per_parameter.toFixed(2), result.layer_bits.toFixed(2)), 'symbol-numeric'),
        full: vscode.l10n.t('{0} stay as they were: embedding, head, norms and all that was not chosen.', formatBytes(result.unquantized_bytes)),
      },
      plain('memory', vscode.l10n.t('In memory'), vscode.l10n.t('{0} when it was loaded and checked', formatBytes(result.memory)), 'dashboard'),
    );
  }
  const made = result?.kind === 'tensorize' || result?.kind === 'heal' || result?.kind === 'quantize' ? result : undefined;
  const { original, compressed, healed, quantized } = { ...summary.evaluations, ...measuredBy(made) };
  const only = result?.kind === 'perplexity' || result?.kind === 'sample-model' ? result.evaluation : undefined;
  if (original) {
    found.push(...evaluation('original', vscode.l10n.t('Original'), original));
  }
  if (compressed) {
    found.push(...evaluation('compressed', vscode.l10n.t('Compressed'), compressed));
  }
  if (quantized) {
    found.push(...evaluation('quantized', vscode.l10n.t('Quantized'), quantized));
  }
  if (healed) {
    found.push(...evaluation('healed', vscode.l10n.t('Healed'), healed));
  }
  if (only) {
    found.push(...evaluation('only', vscode.l10n.t('Model'), only));
  }
  if (summary.verified) {
    const { logits_difference, tolerance } = summary.verified;
    found.push({
      ...plain('verified', vscode.l10n.t('Loaded again and checked'), vscode.l10n.t('log-probabilities differ by {0} at most', formatNumber(logits_difference)), 'verified'),
      color: 'testing.iconPassed',
      full: vscode.l10n.t(
        'The written folder was loaded in transformers and compared with what it was made from in memory: {0}, allowed {1}.',
        formatNumber(logits_difference),
        formatNumber(tolerance),
      ),
    });
  }
  return found;
}

/** What a result has of the models, without what it lacks. */
function measuredBy(made: TensorizeResult | HealResult | QuantizeResult | undefined): RunSummary['evaluations'] {
  if (made?.kind === 'quantize') {
    return { ...(made.original && { original: made.original }), ...(made.quantized && { quantized: made.quantized }) };
  }
  const healed = made?.kind === 'heal' ? made.healed : undefined;
  return { ...(made?.original && { original: made.original }), ...(made?.compressed && { compressed: made.compressed }), ...(healed && { healed }) };
}

function evaluation(id: string, who: string, { perplexity, standard_error, tokens_per_second, prompt, sample, tokens, data }: Evaluation): Detail[] {
  const figure = vscode.l10n.t('perplexity {0} · {1} tokens/s', formatMeasured(perplexity, standard_error), formatNumber(tokens_per_second));
  return [
    {
      ...plain(`evaluation.${id}`, who, figure, 'graph'),
      full: vscode.l10n.t('Measured on {0} tokens of {1}.', formatParameters(tokens), data),
      children: [{ ...plain(`sample.${id}`, oneLine(`${prompt}${sample}`), '', 'quote'), full: `${prompt}${sample}` }],
    },
  ];
}

function layers(run: Run): Detail[] {
  const all = run.result?.kind === 'tensorize' ? run.result.layers : run.summary.layers;
  if (all.length === 0) {
    return [];
  }
  const before = all.reduce((sum, layer) => sum + layer.original_parameters, 0);
  const after = all.reduce((sum, layer) => sum + layer.parameters, 0);
  const label = all.length === 1 ? vscode.l10n.t('1 layer') : vscode.l10n.t('{0} layers', all.length);
  return [{ ...plain('layers', label, vscode.l10n.t('{0} kept', formatPercent(after / before)), 'layers'), children: all.map(layerDetail) }];
}

function layerDetail(layer: LayerFigures): Detail {
  const bonds = [...new Set(layer.bond_dims)].join(', ');
  return {
    ...plain(
      `layer.${layer.name}`,
      layer.name,
      vscode.l10n.t('χ {0} · {1} kept · error {2}', bonds, formatPercent(layer.keep), formatPercent(layer.relative_error)),
      'link',
    ),
    full: [
      vscode.l10n.t('Sites (out × in): {0}', layer.out_modes.map((mode, site) => `${mode}×${layer.in_modes[site] ?? '?'}`).join(' · ')),
      vscode.l10n.t('Parameters: {0} of {1}', formatParameters(layer.parameters), formatParameters(layer.original_parameters)),
      vscode.l10n.t('Multiply-adds per token: {0} of {1}', formatParameters(layer.multiply_adds), formatParameters(layer.original_multiply_adds)),
      vscode.l10n.t('Took {0}', formatDuration(layer.seconds)),
    ].join('\n\n'),
  };
}

/** What each layer became, the costliest first, and what the next larger and the next smaller way would have been. */
function quantizedLayers(run: Run): Detail[] {
  const all = run.result?.kind === 'quantize' ? run.result.layers : run.summary.quantized;
  if (all.length === 0) {
    return [];
  }
  const bits = (8 * all.reduce((sum, layer) => sum + layer.bytes, 0)) / all.reduce((sum, layer) => sum + layer.parameters, 0);
  const label = all.length === 1 ? vscode.l10n.t('1 weight in fewer bits') : vscode.l10n.t('{0} weights in fewer bits', all.length);
  const sorted = all.toSorted((a, b) => (b.loss ?? 0) - (a.loss ?? 0));
  return [{ ...plain('quantized', label, vscode.l10n.t('{0} bits', bits.toFixed(2)), 'symbol-numeric'), children: sorted.map(quantizedDetail) }];
}

function quantizedDetail(layer: QuantizedLayer): Detail {
  const bits = (8 * layer.bytes) / layer.parameters;
  const loss = typeof layer.loss === 'number' ? [vscode.l10n.t('+{0} nats', formatNumber(layer.loss))] : [];
  const beside = (choice: SchemeChoice, text: (name: string, bytes: string, nats: string) => string): string =>
    text(schemeText(choice), formatBytes(Math.abs(choice.bytes - layer.bytes)), formatNumber(Math.abs(choice.loss - (layer.loss ?? 0))));
  return {
    ...plain(`quantized.${layer.name}`, layer.name, [layer.protected ? vscode.l10n.t('8 bits, protected') : schemeText(layer), vscode.l10n.t('{0} bits', bits.toFixed(2)), ...loss].join(' · '), 'symbol-numeric'),
    full: [
      vscode.l10n.t('{0} instead of {1}; error {2} of the weight’s norm.', formatBytes(layer.bytes), formatBytes(layer.original_bytes), formatPercent(layer.relative_error)),
      ...(loss.length > 0 ? [vscode.l10n.t('Predicted to raise the loss by {0} nats a token.', formatNumber(layer.loss ?? 0))] : []),
      ...(layer.larger ? [beside(layer.larger, (name, bytes, nats) => vscode.l10n.t('Not {0}: {1} more for {2} nats.', name, bytes, nats))] : []),
      ...(layer.smaller ? [beside(layer.smaller, (name, bytes, nats) => vscode.l10n.t('Not {0}: {1} less would cost {2} nats more.', name, bytes, nats))] : []),
      ...(layer.protected ? [vscode.l10n.t('In as few bits as the others it would have cost far more than they do.')] : []),
      vscode.l10n.t('Took {0}', formatDuration(layer.seconds)),
    ].join('\n\n'),
  };
}

/** `compensated-3 + rank 8`, `low-rank-4, rank 96`, `nf4`. */
function schemeText({ scheme, rank = 0 }: Pick<SchemeChoice, 'scheme' | 'rank'>): string {
  if (rank === 0) {
    return scheme;
  }
  return scheme.startsWith('low-rank') ? vscode.l10n.t('{0}, rank {1}', scheme, rank) : vscode.l10n.t('{0} + rank {1}', scheme, rank);
}

function machine(run: Run): Detail[] {
  const { started, estimate, starts } = run.summary;
  const found: Detail[] = [];
  if (started) {
    const resumed = starts > 1 ? vscode.l10n.t(', resumed {0} times', starts - 1) : '';
    found.push({ ...plain('device', vscode.l10n.t('Device'), `${started.device}${resumed}`, 'server'), full: vscode.l10n.t('Engine {0}, torch {1}', started.engine, started.torch) });
  }
  if (estimate) {
    found.push(
      plain(
        'estimate',
        vscode.l10n.t('Needs'),
        vscode.l10n.t('{0} memory of {1} · {2} disk of {3}', formatBytes(estimate.memory), formatBytes(estimate.memory_available), formatBytes(estimate.disk), formatBytes(estimate.disk_available)),
        'dashboard',
      ),
    );
  }
  return found;
}

function plain(id: string, label: string, description: string, icon: string): Detail {
  return { id, label, description, icon, contextValue: 'detail' };
}
