/** The tensors of two models as rows. No DOM here. */
import type { TensorChange } from '../../extension/protocol/types.ts';
import { formatParameters, formatPercent } from '../../extension/runs/format.ts';
import { type Column, compareLists, NAMES, shapeText } from '../ui/listRows.ts';
import { t } from '../ui/l10n.ts';

export const KINDS = ['all', 'changed', 'unread', 'only', 'equal'] as const;
export type Kind = (typeof KINDS)[number];

/** `unread`: of other shapes, or stored in a way that is not read. */
export function kindOf({ found }: Pick<TensorChange, 'found'>): Exclude<Kind, 'all'> {
  return found === 'shape' ? 'unread' : found === 'only-model' || found === 'only-other' ? 'only' : found;
}

export function kindName(kind: Kind, count: number): string {
  const number = count.toLocaleString('en');
  return {
    all: t('all ({0})', number),
    changed: t('changed ({0})', number),
    unread: t('not comparable ({0})', number),
    only: t('in one of them only ({0})', number),
    equal: t('equal ({0})', number),
  }[kind];
}

/** What a row says first: a number, or why there is none. */
export function changeText({ found, relative, largest }: TensorChange): string {
  switch (found) {
    case 'equal':
      return t('equal');
    case 'shape':
      return t('other shape');
    case 'unread':
      return t('not read');
    case 'only-model':
      return t('gone');
    case 'only-other':
      return t('new');
    case 'changed':
      return typeof relative === 'number' ? percent(relative) : typeof largest === 'number' ? t('from zero') : '–';
  }
}

/** Three digits: small changes are what one looks for. */
export function percent(relative: number): string {
  return relative >= 0.1 ? formatPercent(relative) : relative >= 1e-5 ? `${Number((100 * relative).toPrecision(3))}%` : relative.toExponential(1);
}

function number(value: number | null | undefined): string {
  return typeof value !== 'number' ? '–' : value === 0 ? '0' : Math.abs(value) < 1e-3 || Math.abs(value) >= 1e5 ? value.toExponential(2) : String(Number(value.toPrecision(3)));
}

export function shapesText({ shape, other_shape }: Pick<TensorChange, 'shape' | 'other_shape'>): string {
  const [one, two] = [shape, other_shape].map(sizes => (sizes ? shapeText(sizes) : undefined));
  return one === undefined || two === undefined || one === two ? (one ?? two ?? '') : `${one} → ${two}`;
}

export function storedText({ stored, other_stored }: Pick<TensorChange, 'stored' | 'other_stored'>): string {
  return stored == null || other_stored == null || stored === other_stored ? (stored ?? other_stored ?? '') : `${stored} → ${other_stored}`;
}

/** What else there is to say of a tensor, in a sentence; undefined where there is nothing. */
export function remarkOf({ found, problem, not_finite = 0, shape }: TensorChange): string | undefined {
  if (problem != null) {
    return problem;
  }
  if (not_finite > 0) {
    return t('In {0} places one of the two is NaN or infinite; these are left out.', not_finite.toLocaleString('en'));
  }
  if (found === 'changed' && shape) {
    return undefined;
  }
  return { changed: undefined, equal: undefined, unread: undefined, shape: t('The shapes differ, so there is no difference to compute.'), 'only-model': t('The second model has no tensor of this name.'), 'only-other': t('The first model has no tensor of this name.') }[found];
}

const RANK: Readonly<Record<TensorChange['found'], number>> = { changed: 5, shape: 4, unread: 3, 'only-model': 2, 'only-other': 1, equal: 0 };

/** Bars are relative to the most changed tensor. */
export function columnsOf(most: () => number): readonly Column<TensorChange>[] {
  return [
    { id: 'name', name: t('Tensor'), hint: t('Name of the tensor; of a layer that is stored otherwise, of the weight that it stands for'), text: ({ name }) => name, order: (a, b) => NAMES.compare(a.name, b.name) },
    {
      id: 'relative',
      name: t('Change'),
      hint: t('‖second − first‖ / ‖first‖, Frobenius norm'),
      text: changeText,
      order: (a, b) => RANK[a.found] - RANK[b.found] || (a.relative ?? Infinity) - (b.relative ?? Infinity),
      part: ({ found, relative }) => (found === 'changed' && most() > 0 ? Math.min(1, (relative ?? most()) / most()) : undefined),
    },
    { id: 'largest', name: t('Largest'), hint: t('Largest absolute difference of two numbers'), text: ({ largest }) => number(largest), order: (a, b) => (a.largest ?? -1) - (b.largest ?? -1) },
    { id: 'shape', name: t('Shape'), hint: t('In the first model → in the second'), text: shapesText, order: (a, b) => compareLists(a.shape ?? a.other_shape ?? [], b.shape ?? b.other_shape ?? []) },
    { id: 'stored', name: t('Stored as'), hint: t('In the first model → in the second'), text: storedText, order: (a, b) => NAMES.compare(storedText(a), storedText(b)) },
    { id: 'parameters', name: t('Values'), hint: t('Numbers of the tensor'), text: ({ parameters }) => formatParameters(parameters), order: (a, b) => a.parameters - b.parameters },
  ];
}
