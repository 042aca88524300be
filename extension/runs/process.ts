/**
 * Which process is meant, and whether it still lives. A process id alone is used again by the system: every signal is sent only
 * after the id's start was compared. The form of `started` is the schema's (`ProcessIdentity`), so that the engine can compare too.
 */
import { readFile } from 'node:fs/promises';
import os from 'node:os';
import { execa } from 'execa';
import type { ProcessIdentity } from '../protocol/types.ts';
import { descendants, parseStat, processTable } from './processTable.ts';

/** A process of another host counts as alive as long as its status file is younger than this, in milliseconds. */
export const REMOTE_SILENCE = 60_000;

/** @returns undefined when there is no such process, or only its unreaped remains. */
export async function identify(pid: number): Promise<ProcessIdentity | undefined> {
  const started = process.platform === 'linux' ? await startedByProc(pid) : await startedByPs(pid);
  return started === undefined ? undefined : { pid, started, host: os.hostname() };
}

export async function isAlive(identity: ProcessIdentity): Promise<boolean> {
  return (await identify(identity.pid))?.started === identity.started;
}

export function isRemote(identity: ProcessIdentity): boolean {
  return identity.host !== os.hostname();
}

/** For identities in files that have no validator of their own. */
export function isIdentity(value: unknown): value is ProcessIdentity {
  return (
    typeof value === 'object' &&
    value !== null &&
    'pid' in value &&
    typeof value.pid === 'number' &&
    'started' in value &&
    typeof value.started === 'string' &&
    'host' in value &&
    typeof value.host === 'string'
  );
}

/**
 * Sends a signal to the process and its whole group. Nothing is sent when the process id now belongs to another process.
 * With SIGKILL everything below the process gets it too. When the leader has died but others of its group live, they get the signal: the system gives no process the id of a group in use.
 * @returns whether anything was there to get the signal.
 */
export async function signalGroup(identity: ProcessIdentity, signal: NodeJS.Signals): Promise<boolean> {
  const now = await identify(identity.pid);
  if (isRemote(identity) || identity.pid <= 1 || (now !== undefined && now.started !== identity.started)) {
    return false;
  }
  if (signal === 'SIGKILL' && now !== undefined) {
    // Nobody passes this signal on: what has a session of its own would be left behind.
    descendants(await processTable(), identity.pid).forEach(pid => send(pid, signal));
  }
  // A run started by hand from a script is not the leader of a group: then only the process itself is ours.
  return send(-identity.pid, signal) || (now !== undefined && send(identity.pid, signal));
}

function send(target: number, signal: NodeJS.Signals): boolean {
  try {
    return process.kill(target, signal);
  } catch {
    return false;
  }
}

async function startedByProc(pid: number): Promise<string | undefined> {
  try {
    const [text, boot] = await Promise.all([readFile(`/proc/${pid}/stat`, 'utf8'), readFile('/proc/sys/kernel/random/boot_id', 'utf8')]);
    const row = parseStat(text);
    return row === undefined || 'ZXx'.includes(row.state) ? undefined : `linux:${boot.trim()}:${row.start}`;
  } catch {
    return undefined;
  }
}

async function startedByPs(pid: number): Promise<string | undefined> {
  const { stdout } = await execa('ps', ['-o', 'stat=,lstart=', '-p', String(pid)], { env: { LC_ALL: 'C' }, reject: false });
  return startOf(stdout);
}

/** Of `ps -o stat=,lstart=`; undefined for no process and for unreaped remains. */
export function startOf(ps: string): string | undefined {
  const found = /^(\S+)\s+(.+)$/.exec(ps.trim());
  return !found || found[1]?.startsWith('Z') ? undefined : `ps:${found[2]}`;
}
