/**
 * A scanner for the subset of JSON that safetensors headers and indexes use, straight over the bytes: it sees duplicate keys, which
 * `JSON.parse` swallows, keeps numbers exact, names the byte where something is wrong, and can stop between two entries.
 */
import { isAscii, isUtf8 } from 'node:buffer';
import { SafetensorsError } from './errors.ts';

/** Containers within containers; the reference parser (serde_json) stops at the same depth. */
const DEEPEST = 127;
const SPACE = 0x20;
const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const ZERO = 0x30;
const NINE = 0x39;
const NUMBER = /^-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?$/;
const NUMBER_BYTES: ReadonlySet<number> = new Set(Buffer.from('+-.0123456789Ee'));

export class JsonScanner {
  readonly bytes: Buffer;
  readonly file: string;
  readonly what: string;
  readonly #ascii: boolean;
  position = 0;
  /** The last string token, between its quotes. */
  tokenStart = 0;
  tokenEnd = 0;
  #tokenEscaped = false;

  /**
   * @param what what the text is, for messages: "the header", "the index"
   * @throws SafetensorsError when the bytes are not UTF-8
   */
  constructor(bytes: Buffer, file: string, what: string) {
    this.bytes = bytes;
    this.file = file;
    this.what = what;
    this.#ascii = isAscii(bytes);
    if (!this.#ascii && !isUtf8(bytes)) {
      throw new SafetensorsError(
        'not-json',
        file,
        `${file}: ${what} is not UTF-8 text.`,
        'The file is damaged or not a safetensors checkpoint: download or write it again.',
      );
    }
  }

  error(problem: string, at = this.position): SafetensorsError {
    return new SafetensorsError(
      'not-json',
      this.file,
      `${this.file}: ${this.what} is not valid JSON: ${problem} at its byte ${at}.`,
      'The file is damaged or not a safetensors checkpoint: download or write it again.',
    );
  }

  /** The next byte that is not JSON whitespace, or -1 at the end. Does not move past it. */
  peek(): number {
    const { bytes } = this;
    let position = this.position;
    let byte = bytes[position];
    while (byte === SPACE || byte === 0x0a || byte === 0x0d || byte === 0x09) byte = bytes[++position];
    this.position = position;
    return byte ?? -1;
  }

  /** Moves past `byte` (after whitespace) if it is next. */
  take(byte: number): boolean {
    if (this.bytes[this.position] !== byte && this.peek() !== byte) return false;
    this.position++;
    return true;
  }

  expect(byte: number): void {
    if (!this.take(byte)) throw this.error(`expected ${String.fromCharCode(byte)}, found ${this.#found()}`);
  }

  /** After an entry of an object or array: true if another follows, false if `close` ended it. */
  more(close: number): boolean {
    if (this.take(0x2c)) {
      if (this.peek() === close) throw this.error('a comma with nothing after it');
      return true;
    }
    if (this.take(close)) return false;
    throw this.error(`expected , or ${String.fromCharCode(close)}, found ${this.#found()}`);
  }

  end(): void {
    if (this.peek() !== -1) throw this.error(`expected the end, found ${this.#found()}`);
  }

  /** Moves past a string; `text()` gives it, `tokenIs()` compares it. */
  token(): void {
    this.expect(QUOTE);
    const { bytes } = this;
    const start = this.position;
    let position = start;
    let escaped = false;
    for (;;) {
      const byte = bytes[position];
      if (byte === QUOTE) break;
      if (byte === undefined) throw this.error('a string without an end', start);
      if (byte === BACKSLASH) {
        escaped = true;
        position++;
      } else if (byte < SPACE) throw this.error('a control character in a string', position);
      position++;
    }
    if (position >= bytes.length) throw this.error('a string without an end', start);
    this.tokenStart = start;
    this.tokenEnd = position;
    this.#tokenEscaped = escaped;
    this.position = position + 1;
  }

  /** The last token as a string. */
  text(): string {
    const { bytes, tokenStart, tokenEnd } = this;
    if (!this.#tokenEscaped) return bytes.toString(this.#ascii ? 'latin1' : 'utf8', tokenStart, tokenEnd);
    let text: unknown;
    try {
      text = JSON.parse(bytes.toString('utf8', tokenStart - 1, tokenEnd + 1));
    } catch {
      throw this.error('an invalid escape in a string', tokenStart);
    }
    if (typeof text !== 'string' || /\p{Surrogate}/u.test(text)) throw this.error('half a surrogate pair in a string', tokenStart);
    return text;
  }

  /** Whether the last token is this text, without making a string in the common case. */
  tokenIs(text: string): boolean {
    if (this.#tokenEscaped || !this.#ascii) return this.text() === text;
    const { bytes, tokenStart } = this;
    if (this.tokenEnd - tokenStart !== text.length) return false;
    for (let i = 0; i < text.length; i++) if (bytes[tokenStart + i] !== text.charCodeAt(i)) return false;
    return true;
  }

  string(): string {
    this.token();
    return this.text();
  }

  /** A whole number from 0 to 2^53 − 1, or undefined (and no move) where the value is anything else. */
  whole(): number | undefined {
    const first = this.peek();
    if (first < ZERO || first > NINE) return undefined;
    const { bytes } = this;
    let position = this.position;
    let value = 0;
    let byte: number | undefined = first;
    while (byte !== undefined && byte >= ZERO && byte <= NINE) {
      value = value * 10 + (byte - ZERO);
      byte = bytes[++position];
    }
    if (byte === 0x2e || byte === 0x65 || byte === 0x45 || value > Number.MAX_SAFE_INTEGER) return undefined;
    if (first === ZERO && position > this.position + 1) throw this.error('a number with a leading zero');
    this.position = position;
    return value;
  }

  /** Moves past any value, checked and dropped. */
  skip(depth: number): void {
    const byte = this.peek();
    if (byte === QUOTE) {
      this.string();
      return;
    }
    if (byte === 0x7b || byte === 0x5b) {
      if (depth >= DEEPEST) throw this.error(`more than ${DEEPEST} levels`);
      const close = byte + 2;
      this.position++;
      if (this.take(close)) return;
      do {
        if (byte === 0x7b) {
          this.string();
          this.expect(0x3a);
        }
        this.skip(depth + 1);
      } while (this.more(close));
      return;
    }
    for (const word of ['true', 'false', 'null']) {
      if (this.bytes.toString('latin1', this.position, this.position + word.length) === word) {
        this.position += word.length;
        return;
      }
    }
    this.#number();
  }

  /** The beginning of the value at the position, for a message. */
  excerpt(): string {
    this.peek();
    const text = this.bytes.toString('latin1', this.position, this.position + 32).replace(/[^\x20-\x7e]/g, '?');
    return /^(?:"[^"]*"?|[^\s,\]}]+)/.exec(text)?.[0] ?? text.slice(0, 1);
  }

  #number(): void {
    const start = this.position;
    let end = start;
    while (NUMBER_BYTES.has(this.bytes[end] ?? 0)) end++;
    const text = this.bytes.toString('latin1', start, end);
    if (end === start) throw this.error(`expected a value, found ${this.#found()}`);
    if (!NUMBER.test(text) || !Number.isFinite(Number(text))) throw this.error('a number that JSON does not allow');
    this.position = end;
  }

  #found(): string {
    const byte = this.peek();
    if (byte === -1) return 'the end';
    return byte > SPACE && byte < 0x7f ? String.fromCharCode(byte) : `byte 0x${byte.toString(16).padStart(2, '0')}`;
  }
}
