/** Sorting without holding the event loop: native sorts of short runs, then merges that can pause. */
import type { Pace } from 'safetensors-ts';
import { naturalKey } from './names.ts';

const RUN = 4096;

/** The same things in natural order of their names. */
export async function sortByName<T extends { readonly name: string }>(things: readonly T[], pace: Pace, signal?: AbortSignal): Promise<T[]> {
  const keyed: { readonly key: string; readonly thing: T }[] = [];
  for (const thing of things) {
    keyed.push({ key: naturalKey(thing.name), thing });
    if ((keyed.length & 255) === 0 && pace.due()) await pace.rest(signal);
  }
  const sorted = await sortPaced(keyed, byKey, pace, signal);
  return sorted.map(({ thing }) => thing);
}

export function byKey(a: { readonly key: string }, b: { readonly key: string }): number {
  return a.key < b.key ? -1 : a.key > b.key ? 1 : 0;
}

export async function sortPaced<T>(items: readonly T[], compare: (a: T, b: T) => number, pace: Pace, signal?: AbortSignal): Promise<T[]> {
  let runs: T[][] = [];
  for (let start = 0; start < items.length; start += RUN) {
    runs.push(items.slice(start, start + RUN).sort(compare));
    if (pace.due()) await pace.rest(signal);
  }
  while (runs.length > 1) {
    const merged: T[][] = [];
    for (let i = 0; i < runs.length; i += 2) {
      const [left, right] = [runs[i], runs[i + 1]];
      if (left) merged.push(right ? await merge(left, right, compare, pace, signal) : left);
    }
    runs = merged;
  }
  return runs[0] ?? [];
}

async function merge<T>(left: readonly T[], right: readonly T[], compare: (a: T, b: T) => number, pace: Pace, signal?: AbortSignal): Promise<T[]> {
  const merged: T[] = [];
  let l = 0;
  let r = 0;
  for (let a = left[l], b = right[r]; a !== undefined || b !== undefined; ) {
    if (a !== undefined && (b === undefined || compare(a, b) <= 0)) {
      merged.push(a);
      a = left[++l];
    } else if (b !== undefined) {
      merged.push(b);
      b = right[++r];
    }
    if ((merged.length & 1023) === 0 && pace.due()) await pace.rest(signal);
  }
  return merged;
}
