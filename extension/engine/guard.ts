/**
 * One set-up at a time in a folder, among any number of processes, also when one of them is killed. Each contender writes a file of its
 * own with its process identity, then looks for others: with two at the same time at least one sees the other and steps back. Names are
 * never used twice, so a dead process's file can be removed by anyone.
 */
import { randomBytes } from 'node:crypto';
import { mkdir, readdir, readFile, rm, stat, utimes } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { t } from '../l10n/text.ts';
import type { ProcessIdentity } from '../protocol/types.ts';
import { replaceJson } from '../runs/files.ts';
import { identify, isAlive, isIdentity, isRemote, REMOTE_SILENCE, signalGroup } from '../runs/process.ts';

export interface Guard {
  /** Records the program that works for the holder: it is ended before anybody else takes over from a holder that was killed. */
  readonly setChild: (child: ProcessIdentity) => Promise<void>;
  readonly release: () => Promise<void>;
}

interface Claim {
  readonly holder: ProcessIdentity;
  readonly child?: ProcessIdentity;
}

/** Milliseconds. */
const REFRESH = 10_000;

/**
 * Waits until nobody else holds the folder, and holds it.
 * @param onWait told once for each other holder that is waited for.
 * @throws the signal's reason when aborted while waiting.
 */
export async function holdFolder(folder: string, signal?: AbortSignal, onWait?: (holder: ProcessIdentity) => void): Promise<Guard> {
  await mkdir(folder, { recursive: true });
  const holder = await identify(process.pid);
  if (!holder) {
    throw new Error(t('This process cannot be identified: neither /proc nor ps answers.'));
  }
  const own = `${randomBytes(6).toString('hex')}.lock`;
  const file = path.join(folder, own);
  let waitedFor: number | undefined;
  for (;;) {
    signal?.throwIfAborted();
    let other = await otherHolder(folder, own);
    if (!other) {
      await replaceJson(file, { holder } satisfies Claim);
      other = await otherHolder(folder, own);
      if (!other) {
        return guard(file, holder);
      }
      await rm(file, { force: true });
    }
    if (other.pid !== waitedFor) {
      waitedFor = other.pid;
      onWait?.(other);
    }
    // At random, so that two that stepped back do not meet again for ever.
    await sleep(200 + Math.random() * 400, undefined, { signal }).catch(() => undefined);
  }
}

function guard(file: string, holder: ProcessIdentity): Guard {
  const refresh = setInterval(() => {
    const now = new Date();
    utimes(file, now, now).catch(() => undefined);
  }, REFRESH);
  refresh.unref();
  return {
    setChild: child => replaceJson(file, { holder, child } satisfies Claim),
    release: async () => {
      clearInterval(refresh);
      await rm(file, { force: true });
    },
  };
}

async function otherHolder(folder: string, own: string): Promise<ProcessIdentity | undefined> {
  for (const name of await readdir(folder)) {
    if (!name.endsWith('.lock') || name === own) {
      continue;
    }
    const file = path.join(folder, name);
    const claim = await readClaim(file);
    if (claim && (await holds(claim, file))) {
      return claim.holder;
    }
    if (claim?.child && !isRemote(claim.child)) {
      await signalGroup(claim.child, 'SIGKILL');
      while (await isAlive(claim.child)) {
        await sleep(20);
      }
    }
    await rm(file, { force: true });
  }
  return undefined;
}

async function holds(claim: Claim, file: string): Promise<boolean> {
  if (!isRemote(claim.holder)) {
    return isAlive(claim.holder);
  }
  const touched = await stat(file).then(found => found.mtimeMs, () => 0);
  return Date.now() - touched < REMOTE_SILENCE;
}

async function readClaim(file: string): Promise<Claim | undefined> {
  try {
    const value: unknown = JSON.parse(await readFile(file, 'utf8'));
    if (typeof value === 'object' && value !== null && 'holder' in value && isIdentity(value.holder)) {
      return 'child' in value && isIdentity(value.child) ? { holder: value.holder, child: value.child } : { holder: value.holder };
    }
  } catch {
    // Gone in the meantime, or not a file of ours.
  }
  return undefined;
}
