/** What can be wrong with a safetensors checkpoint, in codes a program can act on and words a person can. */

export type SafetensorsErrorCode =
  | 'unreadable' // the file system refused, or it is not a regular file
  | 'no-weights' // no safetensors file in the folder
  | 'truncated' // shorter than its header says
  | 'header-too-large'
  | 'not-json' // does not begin with `{`, is not UTF-8 or not JSON
  | 'bad-entry' // JSON, but not what the format puts there
  | 'duplicate-key' // a second tensor, or key, of the same name
  | 'unknown-dtype'
  | 'bad-number' // negative, fractional or beyond 2^53
  | 'size-mismatch' // shape × dtype is not the byte range
  | 'bad-offsets' // a hole, an overlap, or an end before its begin
  | 'unindexed-data' // bytes after the last tensor
  | 'bad-index'
  | 'index-missing'
  | 'unsafe-shard-name'
  | 'link-outside'
  | 'missing-shard'
  | 'not-in-shard' // the index names a tensor that its shard lacks
  | 'not-in-index'; // a shard holds a tensor that the index does not place there

export class SafetensorsError extends Error {
  readonly code: SafetensorsErrorCode;
  /** The file or folder it is about. */
  readonly file: string;
  /** What to do about it, a sentence. */
  readonly remedy: string;

  constructor(code: SafetensorsErrorCode, file: string, message: string, remedy: string) {
    super(message);
    this.name = 'SafetensorsError';
    this.code = code;
    this.file = file;
    this.remedy = remedy;
  }
}

const LONGEST_SHOWN = 120;

/** A name from a file as it may stand in a message: quoted, shortened, and with nothing invisible or reordering in it. */
export function shown(name: string): string {
  const short = name.length > LONGEST_SHOWN ? `${name.slice(0, LONGEST_SHOWN)}…` : name;
  return JSON.stringify(short).replace(
    /[\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}
