/**
 * The header of a safetensors file: parsed and held to the published format.
 *
 * https://github.com/huggingface/safetensors#format, and `Metadata::validate` of the reference implementation. Nothing is accepted that the
 * reference refuses; refused beyond it is what the format text forbids (duplicate keys, a header that does not begin with `{`, an entry
 * that is not an object) and sizes beyond 2^53.
 */
import { DTYPE_BITS, type Dtype, isDtype } from './dtypes.ts';
import { SafetensorsError, type SafetensorsErrorCode, shown } from './errors.ts';
import { JsonScanner } from './json.ts';
import { Pace } from './pace.ts';

/** Of the reference implementation, in bytes. */
export const MAX_HEADER_BYTES = 100_000_000;

export interface TensorEntry {
  readonly name: string;
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  /** Elements: the product of the shape. */
  readonly parameters: number;
  /** Where its data begins, from the start of the file. */
  readonly offset: number;
  readonly bytes: number;
  /** Path of the file that holds it. */
  readonly file: string;
  /** Its place among the tensors read, from 0. */
  readonly order: number;
}

export interface HeaderSource {
  readonly file: string;
  /** Where tensor data begins, from the start of the file. */
  readonly dataStart: number;
  /** Bytes from there to the end of the file. */
  readonly dataBytes: number;
}

const OPEN_OBJECT = 0x7b;
const CLOSE_OBJECT = 0x7d;
const OPEN_ARRAY = 0x5b;
const CLOSE_ARRAY = 0x5d;
const COLON = 0x3a;
const COMMA = 0x2c;
const ENTRIES_BETWEEN_LOOKS = 63;
const DAMAGED = 'The file is damaged or was not written by a safetensors library: download or write it again.';

export interface Header {
  readonly metadata: ReadonlyMap<string, string>;
  /** In the order of the header. */
  readonly tensors: ReadonlyMap<string, TensorEntry>;
}

/**
 * @param text the header's bytes
 * @param firstOrder the `order` of its first tensor
 * @throws SafetensorsError
 */
export async function parseHeader(text: Buffer, source: HeaderSource, firstOrder: number, pace: Pace, signal?: AbortSignal): Promise<Header> {
  signal?.throwIfAborted();
  const scanner = new JsonScanner(text, source.file, 'the header');
  if (text[0] !== OPEN_OBJECT) throw scanner.error('it does not begin with {', 0);
  let metadata: Map<string, string> | undefined;
  const tensors = new Map<string, TensorEntry>();
  const forms = new Forms();
  let tiledTo: number | undefined = 0;
  scanner.expect(OPEN_OBJECT);
  if (!scanner.take(CLOSE_OBJECT)) {
    do {
      const name = scanner.string();
      scanner.expect(COLON);
      if (name === '__metadata__') {
        if (metadata) throw duplicate(source.file, name);
        metadata = await parseMetadata(scanner, pace, signal);
        continue;
      }
      const count = tensors.size;
      const entry = parseEntry(scanner, forms, name, source, firstOrder + count);
      if (tensors.set(name, entry).size === count) throw duplicate(source.file, name);
      const begin = entry.offset - source.dataStart;
      tiledTo = begin === tiledTo ? begin + entry.bytes : undefined;
      if ((count & ENTRIES_BETWEEN_LOOKS) === 0 && pace.due()) await pace.rest(signal);
    } while (scanner.more(CLOSE_OBJECT));
  }
  scanner.end();
  const covered = tiledTo ?? (await checkTiling(tensors.values(), source, pace, signal));
  if (covered !== source.dataBytes) throw wrongLength(covered, source);
  return { metadata: metadata ?? new Map<string, string>(), tensors };
}

async function parseMetadata(scanner: JsonScanner, pace: Pace, signal: AbortSignal | undefined): Promise<Map<string, string>> {
  const metadata = new Map<string, string>();
  if (scanner.peek() === 0x6e) {
    scanner.skip(1); // `null`, which the reference reads as absent
    return metadata;
  }
  const fault = (): SafetensorsError =>
    new SafetensorsError(
      'bad-entry',
      scanner.file,
      `${scanner.file}: __metadata__ must be an object of strings, found ${scanner.excerpt()} at byte ${scanner.position} of the header.`,
      DAMAGED,
    );
  if (!scanner.take(OPEN_OBJECT)) throw fault();
  if (scanner.take(CLOSE_OBJECT)) return metadata;
  do {
    const key = scanner.string();
    scanner.expect(COLON);
    if (scanner.peek() !== 0x22) throw fault();
    if (metadata.has(key)) throw duplicate(scanner.file, key);
    metadata.set(key, scanner.string());
    if ((metadata.size & ENTRIES_BETWEEN_LOOKS) === 0 && pace.due()) await pace.rest(signal);
  } while (scanner.more(CLOSE_OBJECT));
  return metadata;
}

function parseEntry(scanner: JsonScanner, forms: Forms, name: string, source: HeaderSource, order: number): TensorEntry {
  scanner.peek();
  const start = scanner.position;
  const form = forms.match(scanner);
  if (form) {
    const begin = scanner.whole();
    if (begin !== undefined && scanner.take(COMMA) && scanner.whole() === begin + form.bytes && scanner.take(CLOSE_ARRAY) && scanner.take(CLOSE_OBJECT)) {
      const { dtype, shape, parameters, bytes } = form;
      return { name, dtype, shape, parameters, offset: source.dataStart + begin, bytes, file: source.file, order };
    }
    scanner.position = start;
  }
  return parseNewEntry(scanner, forms, name, source, order);
}

/** How an entry is written up to its offsets, and what that means. */
interface Form {
  /** The place of `{"dtype":"BF16","shape":[4096,4096],"data_offsets":[` in the text. */
  readonly start: number;
  readonly end: number;
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  readonly parameters: number;
  readonly bytes: number;
}

/** The last few forms: most entries of a model repeat one byte for byte, need no parsing then, and share one shape. */
class Forms {
  readonly #forms: Form[] = [];
  #next = 0;

  add(form: Form): void {
    this.#forms[this.#next] = form;
    this.#next = (this.#next + 1) % 8;
  }

  /** Moves the scanner past a form that stands there. */
  match(scanner: JsonScanner): Form | undefined {
    const { bytes, position } = scanner;
    for (const form of this.#forms) {
      let at = form.start;
      while (at < form.end && bytes[at] === bytes[position + at - form.start]) at++;
      if (at < form.end) continue;
      scanner.position = position + form.end - form.start;
      return form;
    }
    return undefined;
  }
}

/** `{"dtype": …, "shape": […], "data_offsets": [begin, end]}`; unknown keys are checked as JSON and passed over, as in the reference. */
function parseNewEntry(scanner: JsonScanner, forms: Forms, name: string, source: HeaderSource, order: number): TensorEntry {
  const fault: Fault = (code, problem) => new SafetensorsError(code, source.file, `${source.file}: tensor ${shown(name)} ${problem}.`, DAMAGED);
  const start = scanner.position;
  let offsetsAt: number | undefined;
  let dtype: Dtype | undefined;
  let shape: number[] | undefined;
  let offsets: number[] | undefined;
  if (!scanner.take(OPEN_OBJECT)) throw fault('bad-entry', `is described by ${scanner.excerpt()}, not by an object`);
  if (!scanner.take(CLOSE_OBJECT)) {
    do {
      const key = scanner.string();
      scanner.expect(COLON);
      if (key === 'dtype') {
        if (dtype) throw fault('duplicate-key', 'has the key dtype twice');
        dtype = parseDtype(scanner, fault);
      } else if (key === 'shape') {
        if (shape) throw fault('duplicate-key', 'has the key shape twice');
        shape = parseNumbers(scanner, key, fault);
      } else if (key === 'data_offsets') {
        if (offsets) throw fault('duplicate-key', 'has the key data_offsets twice');
        scanner.peek();
        if (dtype && shape) offsetsAt = scanner.position + 1;
        offsets = parseNumbers(scanner, key, fault);
      } else scanner.skip(2);
    } while (scanner.more(CLOSE_OBJECT));
  }
  if (!dtype || !shape || !offsets) throw fault('bad-entry', `lacks ${!dtype ? 'dtype' : !shape ? 'shape' : 'data_offsets'}`);
  const [begin, end] = offsets;
  if (begin === undefined || end === undefined || offsets.length !== 2) throw fault('bad-entry', `has ${offsets.length} data_offsets, not 2`);
  if (begin > end) throw fault('bad-offsets', `begins at byte ${begin}, after its end ${end}`);
  const parameters = product(shape);
  const bits = parameters * DTYPE_BITS[dtype];
  if (!Number.isSafeInteger(bits)) throw fault('bad-number', `has a shape too large to count, [${brief(shape)}]`);
  if (bits % 8 !== 0) throw fault('size-mismatch', `of ${dtype} [${brief(shape)}] is ${bits} bits, not a whole number of bytes`);
  const bytes = bits / 8;
  if (end - begin !== bytes) {
    throw fault('size-mismatch', `of ${dtype} [${brief(shape)}] takes ${bytes} bytes, but its data_offsets span ${end - begin}`);
  }
  if (offsetsAt !== undefined) forms.add({ start, end: offsetsAt, dtype, shape, parameters, bytes });
  return { name, dtype, shape, parameters, offset: source.dataStart + begin, bytes, file: source.file, order };
}

type Fault = (code: SafetensorsErrorCode, problem: string) => SafetensorsError;

function parseDtype(scanner: JsonScanner, fault: Fault): Dtype {
  if (scanner.peek() !== 0x22) throw fault('bad-entry', `has the dtype ${scanner.excerpt()}, not a string`);
  const text = scanner.string();
  if (!isDtype(text)) throw fault('unknown-dtype', `has the dtype ${shown(text)}, which the format does not know`);
  return text;
}

function parseNumbers(scanner: JsonScanner, key: string, fault: Fault): number[] {
  if (!scanner.take(OPEN_ARRAY)) throw fault('bad-entry', `has the ${key} ${scanner.excerpt()}, not a list`);
  const numbers: number[] = [];
  if (scanner.take(CLOSE_ARRAY)) return numbers;
  do {
    const value = scanner.whole();
    if (value === undefined) throw fault('bad-number', `has ${scanner.excerpt()} in its ${key}: not a whole number from 0 to 2^53`);
    numbers.push(value);
  } while (scanner.more(CLOSE_ARRAY));
  return numbers;
}

/** The product, or NaN where any step of it leaves the exact range (a later zero does not excuse it, as in the reference). */
function product(shape: readonly number[]): number {
  let count = 1;
  for (const dimension of shape) {
    count *= dimension;
    if (count > Number.MAX_SAFE_INTEGER) return NaN;
  }
  return count;
}

/**
 * Holds tensors in any order to the rule that they tile the buffer: from 0, each begins where another ended. Linear: follows the chain of
 * ends instead of sorting, which could not pause.
 */
async function checkTiling(
  entries: Iterable<TensorEntry>,
  source: HeaderSource,
  pace: Pace,
  signal: AbortSignal | undefined,
): Promise<number> {
  const { file, dataStart } = source;
  const fault = (problem: string): SafetensorsError => new SafetensorsError('bad-offsets', file, `${file}: ${problem}.`, DAMAGED);
  const byOffset = new Map<number, TensorEntry>();
  const empty: TensorEntry[] = [];
  let looks = 0;
  for (const entry of entries) {
    if ((++looks & 1023) === 0 && pace.due()) await pace.rest(signal);
    if (entry.bytes === 0) {
      empty.push(entry);
      continue;
    }
    const other = byOffset.get(entry.offset);
    if (other) throw fault(`tensors ${shown(other.name)} and ${shown(entry.name)} overlap at byte ${entry.offset - dataStart} of the data`);
    byOffset.set(entry.offset, entry);
  }
  const borders = new Set<number>([dataStart]);
  let position = dataStart;
  let reached = 0;
  for (let next = byOffset.get(position); next; next = byOffset.get(position)) {
    if ((++looks & 1023) === 0 && pace.due()) await pace.rest(signal);
    position = next.offset + next.bytes;
    reached++;
    if (empty.length > 0) borders.add(position);
  }
  if (reached < byOffset.size) throw fault(describeGap(byOffset.values(), position, dataStart));
  const astray = empty.find((entry) => !borders.has(entry.offset));
  if (astray) throw fault(`the empty tensor ${shown(astray.name)} lies at byte ${astray.offset - dataStart} of the data, inside another tensor or past the end`);
  return position - dataStart;
}

function describeGap(entries: Iterable<TensorEntry>, position: number, dataStart: number): string {
  let after: TensorEntry | undefined;
  for (const entry of entries) {
    const end = entry.offset + entry.bytes;
    if (entry.offset < position && end > position) return `tensor ${shown(entry.name)} overlaps the tensor that ends at byte ${position - dataStart} of the data`;
    if (entry.offset > position && (!after || entry.offset < after.offset)) after = entry;
  }
  if (!after) return `tensors overlap before byte ${position - dataStart} of the data`;
  return `bytes ${position - dataStart} to ${after.offset - dataStart} of the data, before tensor ${shown(after.name)}, belong to no tensor`;
}

function wrongLength(covered: number, { file, dataStart, dataBytes }: HeaderSource): SafetensorsError {
  if (covered > dataBytes) {
    return new SafetensorsError(
      'truncated',
      file,
      `${file} is truncated: its tensors end at byte ${dataStart + covered}, the file at ${dataStart + dataBytes}.`,
      'The download or copy was cut short: fetch the file again.',
    );
  }
  return new SafetensorsError('unindexed-data', file, `${file}: ${dataBytes - covered} bytes after the last tensor belong to no tensor.`, DAMAGED);
}

function duplicate(file: string, key: string): SafetensorsError {
  const remedy = 'Which of the two is meant cannot be known: write the checkpoint again.';
  return new SafetensorsError('duplicate-key', file, `${file}: ${shown(key)} stands twice in the header.`, remedy);
}

function brief(shape: readonly number[]): string {
  return shape.length > 8 ? `${shape.slice(0, 8).join(', ')}, …` : shape.join(', ');
}
