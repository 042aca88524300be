/** Range reads of safetensors files. */
import { type FileHandle, open, stat } from 'node:fs/promises';
import { SafetensorsError } from './errors.ts';
import { type Header, type HeaderSource, MAX_HEADER_BYTES, parseHeader, type TensorEntry } from './header.ts';
import { Pace } from './pace.ts';

const LENGTH_BYTES = 8;
/** Read at once with the length: most headers of a shard fit, so one read does. */
const FIRST_READ = 64 * 1024;

/** A file, known by its header. */
export interface SafetensorsFile extends Header {
  readonly path: string;
  /** Bytes of the whole file. */
  readonly size: number;
  /** Where tensor data begins. */
  readonly dataStart: number;
}

/** A header's bytes, not yet parsed. */
export interface RawHeader extends HeaderSource {
  readonly size: number;
  readonly text: Buffer;
}

/**
 * Reads and validates the header of one file; never its tensors.
 * @throws SafetensorsError
 */
export async function readHeader(path: string, signal?: AbortSignal): Promise<SafetensorsFile> {
  return await parseRawHeader(await readRawHeader(path), 0, new Pace(), signal);
}

/** Parses what `readRawHeader` read. */
export async function parseRawHeader(raw: RawHeader, firstOrder: number, pace: Pace, signal: AbortSignal | undefined): Promise<SafetensorsFile> {
  const header = await parseHeader(raw.text, raw, firstOrder, pace, signal);
  return { path: raw.file, size: raw.size, dataStart: raw.dataStart, ...header };
}

/** The header's bytes, with the length checked against the format's limit and the file before anything is allocated for it. */
export async function readRawHeader(path: string): Promise<RawHeader> {
  return await withFile(path, async (handle, size) => {
    if (size < LENGTH_BYTES) throw truncated(path, `it has ${size} bytes, fewer than the ${LENGTH_BYTES} of the header's length`);
    const first = Buffer.allocUnsafe(Math.min(size, FIRST_READ));
    await readFully(handle, first, 0, path);
    const length = first.readBigUInt64LE(0);
    if (length > BigInt(MAX_HEADER_BYTES)) {
      throw new SafetensorsError(
        'header-too-large',
        path,
        `${path}: the header is said to be ${length} bytes long; the safetensors format allows ${MAX_HEADER_BYTES}.`,
        'If this is a real checkpoint with very many tensors, write it as more shards; otherwise the file is damaged or not a safetensors file.',
      );
    }
    const dataStart = LENGTH_BYTES + Number(length);
    if (dataStart > size) throw truncated(path, `its header should end at byte ${dataStart}, the file ends at ${size}`);
    let text = first.subarray(LENGTH_BYTES, dataStart);
    if (dataStart > first.length) {
      text = Buffer.allocUnsafeSlow(Number(length));
      first.copy(text, 0, LENGTH_BYTES);
      await readFully(handle, text.subarray(first.length - LENGTH_BYTES), first.length, path);
    }
    return { file: path, size, dataStart, dataBytes: size - dataStart, text };
  });
}

/**
 * The bytes of a tensor, or `length` of them from `start`.
 * @throws RangeError when the range leaves the tensor
 * @throws SafetensorsError when the file has become shorter or cannot be read
 */
export async function readTensorBytes(entry: TensorEntry, start = 0, length = entry.bytes - start): Promise<Buffer> {
  if (!(start >= 0 && length >= 0 && start + length <= entry.bytes)) {
    throw new RangeError(`bytes ${start} to ${start + length} are not within the ${entry.bytes} of ${entry.name}`);
  }
  const bytes = Buffer.allocUnsafeSlow(length);
  await withFile(entry.file, async (handle) => await readFully(handle, bytes, entry.offset + start, entry.file));
  return bytes;
}

/** Opens a regular file (a pipe or a device would hang or never end) and says in words when it cannot. */
export async function withFile<T>(path: string, use: (handle: FileHandle, size: number) => Promise<T>): Promise<T> {
  let handle: FileHandle | undefined;
  try {
    const { size } = await regular(path);
    handle = await open(path, 'r');
    return await use(handle, size);
  } catch (error) {
    throw asSafetensorsError(error, path);
  } finally {
    await handle?.close();
  }
}

/** Fills `into` from `position` of the file. */
export async function readFully(handle: FileHandle, into: Buffer, position: number, path: string): Promise<void> {
  for (let done = 0; done < into.length; ) {
    const { bytesRead } = await handle.read(into, done, into.length - done, position + done);
    if (bytesRead === 0) throw truncated(path, `it ends before byte ${position + into.length}`);
    done += bytesRead;
  }
}

async function regular(path: string): Promise<{ size: number }> {
  const found = await stat(path);
  if (!found.isFile()) throw new SafetensorsError('unreadable', path, `${path} is not a regular file.`, 'Choose a safetensors file.');
  return found;
}

function truncated(path: string, problem: string): SafetensorsError {
  return new SafetensorsError('truncated', path, `${path} is truncated: ${problem}.`, 'The download or copy was cut short: fetch the file again.');
}

export function asSafetensorsError(error: unknown, path: string): unknown {
  if (!(error instanceof Error) || !('code' in error) || error instanceof SafetensorsError || error.name === 'AbortError') return error;
  const reason = error.code === 'ENOENT' ? 'it does not exist' : error.code === 'EACCES' ? 'no permission' : error.message;
  return new SafetensorsError('unreadable', path, `${path} cannot be read: ${reason}.`, 'Check that the file is there and that you may read it.');
}
