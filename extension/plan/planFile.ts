/** Reading NAME.bondwise.json: JSON with comments, checked against the schema and then against the model, each mistake with its line. */
import { findNodeAtLocation, getNodeValue, type JSONPath, type Node, type ParseError, printParseErrorCode } from 'jsonc-parser';
import type { Layer, Model } from '../checkpoint/index.ts';
import { t } from '../l10n/text.ts';
import type { PlanFile, QuantizeRule, TensorizeRule } from '../protocol/types.ts';
import { isPlanFile } from '../protocol/validate.js';
import { jsonTree } from '../runs/files.ts';
import { SelectorError, selectLayers } from './selectors.ts';

export const PLAN_SUFFIX = '.bondwise.json';
/** The newest format that this version reads; `SCHEMA_VERSION` in the engine's schema. */
const FORMAT = 1;

/** A mistake in a plan, and where it is. */
export class PlanError extends Error {
  readonly remedy: string;
  /** Of the text. */
  readonly offset: number;
  /** From 1. */
  readonly line: number;

  constructor(place: { readonly name: string; readonly offset: number; readonly line: number }, message: string, remedy: string) {
    super(`${place.name}:${place.line}: ${message}`);
    this.name = 'PlanError';
    this.remedy = remedy;
    this.offset = place.offset;
    this.line = place.line;
  }
}

/** A plan's content; of its two lists of rules one is empty. */
export type PlanContent = Omit<PlanFile, 'tensorize' | 'quantize'> & { readonly tensorize: readonly TensorizeRule[]; readonly quantize: readonly QuantizeRule[] };

export class Plan {
  readonly file: PlanContent;
  readonly #name: string;
  readonly #text: string;
  readonly #root: Node;

  /** @throws PlanError, naming the line, for what is not JSON, not a plan, or a plan that cannot be meant. */
  constructor(text: string, name: string) {
    const errors: ParseError[] = [];
    const root = jsonTree(text, errors);
    const [first] = errors;
    if (!root || first) {
      const offset = first?.offset ?? 0;
      throw new PlanError({ name, offset, line: lineAt(text, offset) }, t('it is not JSON: {0}.', first ? wordsOf(printParseErrorCode(first.error)) : text.trim() === '' ? t('it is empty') : t('it nests too deep')), t('Mend it there.'));
    }
    this.#name = name;
    this.#text = text;
    this.#root = root;
    const value: unknown = getNodeValue(root);
    const version: unknown = typeof value === 'object' && value !== null && 'version' in value ? value.version : FORMAT;
    if (typeof version === 'number' && version > FORMAT) {
      throw this.error(['version'], t('it was made by a newer Bondwise (format {0}; this one reads up to {1}).', version, FORMAT), t('Update the extension.'));
    }
    if (!isPlanFile(value)) {
      const { instancePath, message = t('is wrong'), params } = isPlanFile.errors?.[0] ?? { instancePath: '' };
      const unknownKey = params?.additionalProperty;
      const path = pathOf(instancePath);
      throw typeof unknownKey === 'string'
        ? this.error([...path, unknownKey], t('there is no key “{0}”{1}.', unknownKey, path.length > 0 ? ` ${t('in {0}', path.join('.'))}` : ''), t('Remove it, or correct its name.'))
        : this.error(path, `${path.join('.') || t('the plan')} ${message}.`, t('Mend it there.'));
    }
    this.file = { ...value, tensorize: value.tensorize ?? [], quantize: value.quantize ?? [] };
    const { tensorize, quantize } = this.file;
    if ((tensorize.length > 0) === (quantize.length > 0)) {
      const both = tensorize.length > 0;
      throw this.error(
        both ? ['quantize'] : ['tensorize'],
        both ? t('it has rules under tensorize and under quantize.') : t('it has no rules.'),
        both ? t('Make a plan for each, one after the other.') : t('Add rules under tensorize or under quantize.'),
      );
    }
    if (value.heal && quantize.length > 0 && !quantize.some(({ scheme }) => /^(compensated|low-rank)/.test(scheme))) {
      throw this.error(['heal'], t('beside the bits of bitsandbytes nothing trains.'), t('Use compensated-4, or heal first, then quantize: a plan for each.'));
    }
    tensorize.forEach((rule, i) => this.#checkRule(rule, i));
    quantize.forEach((rule, i) => this.#checkScheme(rule, i));
    const budgets = (['minutes', 'tokens', 'epochs'] as const).filter(budget => typeof value.heal?.[budget] === 'number');
    if (value.heal && budgets.length !== 1) {
      throw this.error(['heal', ...budgets.slice(1, 2)], t('heal has {0}.', budgets.join(` ${t('and')} `) || t('no budget')), t('Give exactly one of minutes, tokens and epochs.'));
    }
  }

  /** An error at a key, or where the nearest thing around it begins. */
  error(path: JSONPath, message: string, remedy: string): PlanError {
    const offset = (this.#keyAt(path) ?? this.#nodeAt(path)).offset;
    return new PlanError({ name: this.#name, offset, line: lineAt(this.#text, offset) }, message, remedy);
  }

  /**
   * The layers of each rule; a layer belongs to the first rule that matches it.
   * @throws PlanError for a pattern that matches nothing, a rule without layers of its own, and layers that cannot become MPOs.
   */
  layersIn(model: Pick<Model, 'blocks'>): readonly (readonly Layer[])[] {
    const taken = new Set<string>();
    return this.file.tensorize.map((rule, i) => {
      const matched = this.#select(model, rule, i);
      const own = matched.filter(layer => !taken.has(layer.name));
      if (own.length === 0) {
        throw this.error(['tensorize', i], t('rule {0} has no layer left: all {1} belong to earlier rules.', i + 1, matched.length), t('Remove it, or put the more special rule first.'));
      }
      const unfit = own.find(layer => layer.state !== 'dense' || layer.shape.length !== 2);
      if (unfit) {
        const what = unfit.state === 'dense' ? t('has the shape {0} and is no matrix', unfit.shape.join('×')) : unfit.state === 'mpo' ? t('is an MPO already') : t('is quantized');
        throw this.error(['tensorize', i, 'layers'], `${unfit.name} ${what}.`, t('Leave it out (exclude), or start from the original model.'));
      }
      own.forEach(layer => taken.add(layer.name));
      return own;
    });
  }

  /**
   * The layers of each rule for fewer bits, as far as they are told by names of layers: patterns for cores and the head are the engine's.
   * @throws PlanError for a pattern that matches nothing, and for layers that are quantized.
   */
  quantizedIn(model: Pick<Model, 'blocks'>): readonly (readonly Layer[])[] {
    const taken = new Set<string>();
    return this.file.quantize.map((rule, i) => {
      const layers = rule.layers.filter(pattern => !/\.cores\b|lm_head$/.test(pattern));
      const exclude = (rule.exclude ?? []).filter(pattern => !/\.cores\b|lm_head$/.test(pattern));
      const own = layers.length === 0 ? [] : this.#select(model, { layers, exclude }, i, 'quantize').filter(layer => !taken.has(layer.name));
      const done = own.find(layer => layer.scheme !== undefined);
      if (done) {
        throw this.error(['quantize', i, 'layers'], t('{0} is quantized already ({1}).', done.name, done.scheme ?? ''), t('Start from the model before its quantization.'));
      }
      own.forEach(layer => taken.add(layer.name));
      return own;
    });
  }

  #select(model: Pick<Model, 'blocks'>, { layers, exclude = [] }: Pick<TensorizeRule, 'layers' | 'exclude'>, i: number, section: 'tensorize' | 'quantize' = 'tensorize'): readonly Layer[] {
    try {
      return selectLayers(model, layers, exclude);
    } catch (error) {
      if (!(error instanceof SelectorError)) {
        throw error;
      }
      const key = layers.includes(error.pattern) ? 'layers' : 'exclude';
      const at = (key === 'layers' ? layers : exclude).indexOf(error.pattern);
      throw this.error([section, i, key, ...(at < 0 ? [] : [at])], error.message, error.remedy);
    }
  }

  #checkRule(rule: TensorizeRule, i: number): void {
    const sizes = (['chi', 'keep', 'error'] as const).filter(size => typeof rule[size] === 'number');
    if (sizes.length !== 1) {
      throw this.error(['tensorize', i, ...sizes.slice(1, 2)], t('rule {0} has {1}.', i + 1, sizes.join(` ${t('and')} `) || t('no size')), t('Give exactly one of chi, keep and error.'));
    }
    if (rule.out_modes?.length !== rule.in_modes?.length) {
      throw this.error(['tensorize', i, rule.out_modes ? 'out_modes' : 'in_modes'], t('rule {0} has not as many out_modes as in_modes.', i + 1), t('Give both, one number a site.'));
    }
  }

  #checkScheme({ scheme, rank }: QuantizeRule, i: number): void {
    const ranked = scheme.startsWith('low-rank');
    if (ranked && typeof rank !== 'number') {
      throw this.error(['quantize', i, 'scheme'], t('rule {0} has the scheme {1} and no rank.', i + 1, scheme), t('Give a rank, such as 64.'));
    }
    if (typeof rank === 'number' && !ranked && !scheme.startsWith('compensated')) {
      throw this.error(['quantize', i, 'rank'], t('rule {0} has a rank, which {1} does not take.', i + 1, scheme), t('Leave it out.'));
    }
  }

  /** The name of a property, which is where an editor should point. */
  #keyAt(path: JSONPath): Node | undefined {
    const property = findNodeAtLocation(this.#root, path)?.parent;
    return property?.type === 'property' ? property.children?.[0] : undefined;
  }

  #nodeAt(path: JSONPath): Node {
    return findNodeAtLocation(this.#root, path) ?? (path.length > 0 ? this.#nodeAt(path.slice(0, -1)) : this.#root);
  }
}

function lineAt(text: string, offset: number): number {
  return text.slice(0, offset).split('\n').length;
}

/** `/tensorize/0/chi` as ajv gives it. */
function pathOf(pointer: string): JSONPath {
  return pointer
    .split('/')
    .slice(1)
    .map(segment => segment.replaceAll('~1', '/').replaceAll('~0', '~'))
    .map(segment => (/^\d+$/.test(segment) ? Number(segment) : segment));
}

/** `CommaExpected` → `comma expected`. */
function wordsOf(code: string): string {
  return code.replace(/(?<=[a-z])(?=[A-Z])/g, ' ').toLowerCase();
}
