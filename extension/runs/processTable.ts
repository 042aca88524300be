/** Which processes stand below another one: groups miss those that started a session of their own, as torchrun's workers do. */
import { readdir, readFile } from 'node:fs/promises';
import { execa } from 'execa';

export interface ProcessRow {
  readonly pid: number;
  readonly parent: number;
}

/** Of `ps -A -o pid=,ppid=`: a row a line. */
export function parsePs(text: string): readonly ProcessRow[] {
  return text.split('\n').flatMap(line => {
    const [, pid, parent] = /^\s*(\d+)\s+(\d+)\s*$/.exec(line) ?? [];
    return pid === undefined ? [] : [{ pid: Number(pid), parent: Number(parent) }];
  });
}

/** Of /proc/PID/stat. The second field is the program's name in parentheses and may hold anything, also parentheses and spaces. */
export function parseStat(text: string): { readonly pid: number; readonly state: string; readonly parent: number; readonly start: string } | undefined {
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  const [pid, state, parent, start] = [Number.parseInt(text, 10), fields[0], Number(fields[1]), fields[19]];
  return Number.isInteger(pid) && state !== undefined && Number.isInteger(parent) && start !== undefined ? { pid, state, parent, start } : undefined;
}

/** Children, their children and so on, the deepest last. A table that was read while processes ended may have a circle: it ends. */
export function descendants(table: readonly ProcessRow[], pid: number): readonly number[] {
  const found: number[] = [];
  const seen = new Set([pid]);
  for (let level = [pid]; level.length > 0; ) {
    const above = new Set(level);
    level = table.filter(row => above.has(row.parent) && !seen.has(row.pid)).map(row => row.pid);
    level.forEach(below => seen.add(below));
    found.push(...level);
  }
  return found;
}

/** Every process of this machine that can be seen; empty where there is no way to ask. */
export async function processTable(platform: NodeJS.Platform = process.platform): Promise<readonly ProcessRow[]> {
  if (platform === 'linux') {
    const pids = (await readdir('/proc').catch(() => [])).filter(name => /^\d+$/.test(name));
    const rows = await Promise.all(pids.map(async pid => parseStat(await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => ''))));
    return rows.filter(row => row !== undefined);
  }
  const { stdout } = await execa('ps', ['-A', '-o', 'pid=,ppid='], { env: { LC_ALL: 'C' }, reject: false });
  return parsePs(stdout);
}
