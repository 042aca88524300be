/** Reads `events.ndjson` from where the last read ended. Never the whole file again, and never long at a time. */
import { open } from 'node:fs/promises';
import { t } from '../l10n/text.ts';
import { isRunEvent } from '../protocol/validate.js';
import type { RunEvent } from '../protocol/types.ts';
import { isMissing, messageOf, reasonOf } from './files.ts';
import { EMPTY_SUMMARY, Fold, type RunSummary } from './fold.ts';

/** Bytes of one read. */
const CHUNK = 256 * 1024;
/** Milliseconds of parsing after which other work gets its turn. */
const SLICE = 5;
/** A line above this many bytes is no event of ours. */
const LONGEST_LINE = 16 * 1024 * 1024;
const NEWLINE = 0x0a;

export class Journal {
  readonly #file: string;
  #fold = new Fold();
  #summary = EMPTY_SUMMARY;
  #problem: string | undefined;
  #inode: bigint | undefined;
  #offset = 0;
  #line = 0;
  #rest: Buffer = Buffer.alloc(0);

  constructor(file: string) {
    this.#file = file;
  }

  get summary(): RunSummary {
    return this.#summary;
  }

  /** The first thing wrong with the file, in words; what could be read stays in the summary. */
  get problem(): string | undefined {
    return this.#problem;
  }

  /**
   * Reads what was appended. A last line without its end waits for the next call.
   * A file that was replaced, or is shorter than what was read, is read from the start.
   * @returns whether the summary or the problem changed.
   */
  async read(): Promise<boolean> {
    const before = { summary: this.#summary, problem: this.#problem };
    try {
      const handle = await open(this.#file, 'r');
      try {
        const { ino, size } = await handle.stat({ bigint: true });
        if ((this.#inode !== undefined && this.#inode !== ino) || size < BigInt(this.#offset - this.#rest.length)) {
          this.#reset();
        }
        this.#inode = ino;
        // What waits is read again: a resume cuts a torn line off and writes another in its place.
        this.#offset -= this.#rest.length;
        this.#rest = Buffer.alloc(0);
        const buffer = Buffer.allocUnsafe(CHUNK);
        for (;;) {
          const { bytesRead } = await handle.read(buffer, 0, CHUNK, this.#offset);
          if (bytesRead === 0) {
            break;
          }
          this.#offset += bytesRead;
          await this.#parse(Buffer.concat([this.#rest, buffer.subarray(0, bytesRead)]));
        }
        if (this.#fold.seq !== this.#summary.seq) {
          this.#summary = this.#fold.value;
        }
      } finally {
        await handle.close();
      }
    } catch (error) {
      if (isMissing(error)) {
        this.#reset();
      } else {
        this.#problem ??= t('events.ndjson cannot be read: {0}', messageOf(error));
      }
    }
    return before.summary !== this.#summary || before.problem !== this.#problem;
  }

  #reset(): void {
    this.#fold = new Fold();
    this.#summary = EMPTY_SUMMARY;
    this.#problem = undefined;
    this.#inode = undefined;
    this.#offset = 0;
    this.#line = 0;
    this.#rest = Buffer.alloc(0);
  }

  async #parse(bytes: Buffer): Promise<void> {
    let start = 0;
    let sliceEnd = performance.now() + SLICE;
    for (let end = bytes.indexOf(NEWLINE, start); end !== -1; end = bytes.indexOf(NEWLINE, start)) {
      this.#line += 1;
      this.#take(bytes.toString('utf8', start, end));
      start = end + 1;
      if (performance.now() > sliceEnd) {
        await new Promise(resolve => setImmediate(resolve));
        sliceEnd = performance.now() + SLICE;
      }
    }
    // A copy: the buffer that this is a part of is written over by the next read.
    this.#rest = Buffer.from(bytes.subarray(start));
    if (this.#rest.length > LONGEST_LINE) {
      this.#problem ??= t('line {0} of events.ndjson is longer than {1} bytes', this.#line + 1, LONGEST_LINE);
      this.#rest = Buffer.alloc(0);
    }
  }

  #take(text: string): void {
    const event = parseEvent(text);
    if (typeof event === 'string') {
      this.#problem ??= t('line {0} of events.ndjson {1}', this.#line, event);
      return;
    }
    if (event.seq > this.#fold.seq + 1) {
      this.#problem ??= t('events.ndjson lacks the events {0} to {1}', this.#fold.seq + 1, event.seq - 1);
    }
    if (event.type === undefined) {
      this.#fold.skip(event.seq);
    } else {
      this.#fold.add(event);
    }
  }
}

/** An event of a type that a newer engine added: only its number counts. */
interface UnknownEvent {
  readonly seq: number;
  readonly type?: undefined;
}

/** @returns the event, or what is wrong with the line. */
function parseEvent(text: string): RunEvent | UnknownEvent | string {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return t('is not JSON: {0}', text.slice(0, 80));
  }
  if (isRunEvent(value)) {
    return value;
  }
  const reason = reasonOf(isRunEvent);
  const seq = typeof value === 'object' && value !== null && 'seq' in value ? value.seq : undefined;
  return reason.includes('must be in oneOf') && typeof seq === 'number' ? { seq } : t('is not a valid event: {0}', reason);
}
