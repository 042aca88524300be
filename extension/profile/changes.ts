/** What has come to a profile since it was last shown: by identity, which a fold keeps for what it does not change. */
import type { HostCells, Sensitivity } from '../protocol/types.ts';

const GROWS: readonly string[] = ['baseline', 'curves', 'cells'] satisfies (keyof Sensitivity)[];

/** `whole` where more than figures differ, or some have gone; undefined where nothing does. */
export function changesSince(before: Sensitivity, after: Sensitivity): HostCells | 'whole' | undefined {
  if (before === after) {
    return undefined;
  }
  const [old, now] = [headOf(before), headOf(after)];
  if (old.size !== now.size || [...now].some(([name, value]) => old.get(name) !== value)) {
    return 'whole';
  }
  const [curves, cells] = [added(before.curves, after.curves), added(before.cells, after.cells)];
  const gone = (before.curves?.length ?? 0) > (after.curves?.length ?? 0) || (before.cells?.length ?? 0) > (after.cells?.length ?? 0);
  if (gone) {
    return 'whole';
  }
  const baseline = before.baseline === after.baseline ? undefined : after.baseline;
  return curves.length + cells.length === 0 && !baseline ? undefined : { type: 'cells', curves, cells, ...(baseline && { baseline }) };
}

function headOf(profile: Sensitivity): ReadonlyMap<string, unknown> {
  return new Map<string, unknown>(Object.entries(profile).filter(([name]) => !GROWS.includes(name)));
}

function added<T>(before: readonly T[] = [], after: readonly T[] = []): T[] {
  const known = new Set(before);
  return after.filter(element => !known.has(element));
}
