/** What the chat page keeps over a reload: which models it is of, how they answer, and what is not sent yet. Never a conversation. */
import type { ChatSettings } from '../../extension/protocol/types.ts';

export interface ChatState {
  /** As the host names them; undefined until it has. */
  readonly models?: string;
  readonly draft: string;
  readonly settings: Required<ChatSettings>;
}

export const MOST_TOKENS = 8192;
export const HOTTEST = 2;
const LARGEST_SEED = 2 ** 31;

/** Takes of a stored state what is of the right kind: an older version may have written it. */
export function readState(stored: unknown): ChatState {
  const { models, draft, settings } = fields(stored);
  const { system, temperature, seed, max_tokens } = fields(settings);
  return {
    ...(typeof models === 'string' && { models }),
    draft: typeof draft === 'string' ? draft : '',
    settings: {
      system: typeof system === 'string' ? system : '',
      temperature: within(temperature, 0, HOTTEST) ?? 0,
      seed: whole(within(seed, 0, LARGEST_SEED)) ?? 0,
      max_tokens: whole(within(max_tokens, 1, MOST_TOKENS)) ?? 256,
    },
  };
}

function fields(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null ? Object.fromEntries(Object.entries(value)) : {};
}

function within(value: unknown, least: number, most: number): number | undefined {
  return typeof value === 'number' && value >= least && value <= most ? value : undefined;
}

function whole(value: number | undefined): number | undefined {
  return value === undefined ? undefined : Math.round(value);
}
