/** Paths as files hold them that are read on other systems too. */
import path from 'node:path';

/**
 * From a folder to a path, with forward slashes; absolute where there is no way, as from one Windows drive to another.
 * @param system the rules of the machine; others in tests.
 */
export function portablePath(from: string, to: string, system: path.PlatformPath = path): string {
  return system.relative(from, to).split(system.sep).join('/') || '.';
}
