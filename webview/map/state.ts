/** What the map keeps over a reload; of which models is in it, what they hold is not. */
import type { Sort } from '../ui/layerRows.ts';
import { fieldsOf, textsOf } from '../ui/stored.ts';
import { COLOURS, type ColourBy } from './colours.ts';

export interface MapState {
  /** Undefined before the first message. */
  readonly folder?: string;
  readonly beside?: string;
  /** Undefined until the user has chosen. */
  readonly colour?: ColourBy;
  /** Places: see `placeOf`. */
  readonly selected: readonly string[];
  readonly table: boolean;
  readonly sort: Sort;
}

export function readState(stored: unknown): MapState {
  const { folder, beside, colour, selected, table, sort } = fieldsOf(stored);
  const { column, descending } = fieldsOf(sort);
  const known = COLOURS.find(by => by === colour);
  return {
    ...(typeof folder === 'string' && { folder }),
    ...(typeof beside === 'string' && { beside }),
    ...(known && { colour: known }),
    selected: textsOf(selected) ?? [],
    table: table === true,
    sort: typeof column === 'string' && typeof descending === 'boolean' ? { column, descending } : { column: 'layer', descending: false },
  };
}
