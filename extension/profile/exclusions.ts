/** Layers that the user has taken out of the plans of a profile: proposed as excluded whenever one is made. */
export interface Exclusions {
  get(profile: string): readonly string[];
  add(profile: string, layers: readonly string[]): Promise<void>;
}

const KEY = 'plan.exclude';

interface State {
  get<T>(key: string, fallback: T): T;
  update(key: string, value: unknown): PromiseLike<void>;
}

/** Kept in the workspace's state. */
export function storedExclusions(state: State): Exclusions {
  const all = () => state.get<Readonly<Record<string, readonly string[]>>>(KEY, {});
  const get = (profile: string) => all()[profile] ?? [];
  return {
    get,
    add: async (profile, layers) => {
      await state.update(KEY, { ...all(), [profile]: [...new Set([...get(profile), ...layers])] });
    },
  };
}
