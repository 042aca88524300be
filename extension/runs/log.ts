/** `log.txt` of a run: what the engine's process wrote. It may be of any size, so it is never read whole. */
import { open, rename, stat } from 'node:fs/promises';
import { isMissing } from './files.ts';

/** A log above so many bytes gives way to a new one when the run is started again. */
const LARGEST = 64 * 1024 * 1024;
/** Shown of a log, from its end. */
const SHOWN = 1024 * 1024;
const NEWLINE = 0x0a;

/** Bytes of a file; undefined where there is none. */
async function sizeOf(file: string): Promise<number | undefined> {
  return stat(file).then(
    ({ size }) => size,
    (error: unknown) => {
      if (isMissing(error)) {
        return undefined;
      }
      throw error;
    },
  );
}

/** Before a process writes to it: a large log becomes `log.1.txt`, in the place of the one before. */
export async function rotateLog(file: string): Promise<void> {
  if (((await sizeOf(file)) ?? 0) > LARGEST) {
    await rename(file, file.replace(/(\.[^.]*)?$/, '.1$1'));
  }
}

/**
 * The end of a log that is too long to be opened as it is: whole lines.
 * @returns undefined where it is not too long, or not there.
 */
export async function logTail(file: string, bytes = SHOWN): Promise<{ readonly text: string; readonly skipped: number } | undefined> {
  const size = await sizeOf(file);
  if (size === undefined || size <= bytes) {
    return undefined;
  }
  const handle = await open(file, 'r');
  try {
    const buffer = Buffer.alloc(bytes);
    const { bytesRead } = await handle.read(buffer, 0, bytes, size - bytes);
    const newline = buffer.subarray(0, bytesRead).indexOf(NEWLINE);
    const start = newline === -1 ? 0 : newline + 1;
    return { text: buffer.toString('utf8', start, bytesRead), skipped: size - bytes + start };
  } finally {
    await handle.close();
  }
}
