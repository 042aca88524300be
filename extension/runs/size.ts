/** How much of the disk a folder takes. */
import { lstat, readdir } from 'node:fs/promises';
import path from 'node:path';

/** Bytes of all files below; links are not followed, and what goes away meanwhile counts as nothing. */
export async function folderSize(folder: string): Promise<number> {
  const entries = await readdir(folder, { withFileTypes: true }).catch(() => []);
  let bytes = 0;
  for (const entry of entries) {
    const place = path.join(folder, entry.name);
    bytes += entry.isDirectory() ? await folderSize(place) : await lstat(place).then(({ size }) => size, () => 0);
  }
  return bytes;
}
