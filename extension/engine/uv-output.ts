/** What uv says while it installs, as figures. uv writes a line for each package of a mebibyte and more, and one for each stage. */

export interface UvState {
  readonly stage: 'resolving' | 'downloading' | 'installing' | 'installed';
  /** Packages in the environment to be; undefined until uv has worked it out. */
  readonly packages: number | undefined;
  /** Bytes of each download that was announced and is not finished. */
  readonly loading: ReadonlyMap<string, number>;
  /** Bytes of finished downloads. */
  readonly loaded: number;
}

export const UV_START: UvState = { stage: 'resolving', packages: undefined, loading: new Map(), loaded: 0 };

const UNITS: Record<string, number> = { B: 1, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30 };

/** The state after one more line; lines without meaning for it change nothing. */
export function readUvLine(state: UvState, line: string): UvState {
  const resolved = /^Resolved (\d+) packages?\b/.exec(line);
  if (resolved) {
    return { ...state, stage: 'downloading', packages: Number(resolved[1]) };
  }
  const loading = /^\s*Downloading (\S+) \(([\d.]+)\s?([KMG]?i?B)\)/.exec(line);
  if (loading) {
    const bytes = Number(loading[2]) * (UNITS[loading[3] ?? ''] ?? 1);
    return { ...state, stage: 'downloading', loading: new Map(state.loading).set(loading[1] ?? '', Math.round(bytes)) };
  }
  const loaded = /^\s*Downloaded (\S+)/.exec(line);
  if (loaded) {
    const rest = new Map(state.loading);
    rest.delete(loaded[1] ?? '');
    return { ...state, loading: rest, loaded: state.loaded + (state.loading.get(loaded[1] ?? '') ?? 0) };
  }
  if (/^Prepared \d+ packages?\b/.test(line)) {
    return { ...state, stage: 'installing' };
  }
  return /^Installed \d+ packages?\b/.test(line) ? { ...state, stage: 'installed' } : state;
}

/** Bytes announced by uv, finished or not. */
export function announced(state: UvState): number {
  return [...state.loading.values()].reduce((sum, bytes) => sum + bytes, state.loaded);
}

/** Of uv's output what a person should read when it failed: the error and its causes, without progress. */
export function uvFailure(output: string): string {
  const lines = output.split('\n').map(line => line.trimEnd());
  const from = lines.findIndex(line => /^(error|\s*×|warning: .*fail)/i.test(line));
  const told = (from === -1 ? lines.slice(-5) : lines.slice(from)).filter(line => line.trim() !== '');
  return told.slice(0, 12).join('\n');
}
