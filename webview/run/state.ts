/** What the view keeps over a reload: which run it is of, and what the user has chosen. */

export interface ViewState {
  /** The run directory; undefined until the host has named it. */
  readonly directory?: string;
  readonly table: boolean;
  /** The validation whose text is shown; undefined for the latest. */
  readonly step?: number | undefined;
}

/** Takes of a stored state what is of the right kind: an older version may have written it. */
export function readState(stored: unknown): ViewState {
  const { directory, table, step }: Readonly<Record<string, unknown>> = typeof stored === 'object' && stored !== null ? Object.fromEntries(Object.entries(stored)) : {};
  return {
    ...(typeof directory === 'string' && { directory }),
    table: table === true,
    ...(typeof step === 'number' && step > 0 && { step }),
  };
}
