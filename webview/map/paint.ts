/** The layers of a model on a canvas: width by parameters, filled as far as they are kept. */
import type { MapLayer } from '../../extension/protocol/types.ts';
import { formatShare } from '../../extension/views/measured.ts';
import { columnAt, GAP, type Geometry, widthOf } from '../ui/geometry.ts';
import { outline, striped } from '../ui/paint.ts';
import { css, inkOn, type Rgb } from '../ui/scale.ts';
import type { Picture } from '../ui/sheet.ts';
import type { Theme } from '../ui/theme.ts';
import { geometryOf, keptOf, type Pair, scaleOf, type Side } from './pair.ts';

export interface MapInput {
  readonly pair: Pair;
  readonly side: Side;
  readonly colourOf: (layer: MapLayer) => Rgb | undefined;
  /** Names of layers of this side. */
  readonly selected: ReadonlySet<string>;
  readonly theme: Theme;
  /** Told where a parameter has another width. */
  readonly measured: (geometry: Geometry, pixels: number) => void;
}

/** Pixels that a part kept needs to be written in. */
const WRITTEN = 34;
/** Height of a row in which something can be read. */
const LEGIBLE = 13;

export function mapPicture(input: MapInput): Picture {
  return {
    grid: input.side.grid,
    measure: (width, height) => geometryOf(input.pair, { width, height }),
    paint: (context, geometry, ratio) => {
      const pixels = scaleOf(input.pair, geometry);
      input.measured(geometry, pixels);
      draw(context, input, geometry, pixels, ratio);
    },
  };
}

function draw(context: CanvasRenderingContext2D, { side: { grid }, colourOf, selected, theme }: MapInput, geometry: Geometry, pixels: number, ratio: number): void {
  const height = geometry.rowHeight - GAP;
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, widthOf(geometry), grid.blocks.length * geometry.rowHeight);
  context.font = `600 11px ${theme.font}`;
  context.textAlign = 'center';
  context.textBaseline = 'middle';
  const stripes = striped(context, theme);
  for (const { row, column } of grid.spots()) {
    const layer = grid.at({ row, column });
    if (!layer) {
      continue;
    }
    const { left, width: most } = columnAt(geometry, column);
    const top = row * geometry.rowHeight;
    const width = Math.max(1, Math.min(most, layer.original_parameters * pixels - GAP));
    const kept = Math.min(1, keptOf(layer));
    const filled = kept === 1 ? width : Math.max(1, width * kept);
    const colour = colourOf(layer);
    context.globalAlpha = theme.contrast ? 0 : 0.12;
    context.fillStyle = theme.foreground;
    context.fillRect(left + filled, top, width - filled, height);
    context.globalAlpha = 1;
    context.fillStyle = colour ? css(colour) : stripes;
    context.fillRect(left, top, filled, height);
    if (theme.contrast && width > 4) {
      context.strokeStyle = theme.border;
      context.lineWidth = 1;
      context.strokeRect(left + 0.5, top + 0.5, width - 1, height - 1);
    }
    if (kept < 0.9995 && height >= LEGIBLE) {
      write(context, formatShare(kept), { left, top, height, width, filled }, colour, theme);
    }
  }
  outline(context, grid, selected, geometry, theme);
}

/** Where it can be read: in what is left empty, else in what is filled, else not at all. */
function write(
  context: CanvasRenderingContext2D,
  text: string,
  { left, top, height, width, filled }: { readonly left: number; readonly top: number; readonly height: number; readonly width: number; readonly filled: number },
  colour: Rgb | undefined,
  theme: Theme,
): void {
  const empty = width - filled;
  const y = top + height / 2 + 0.5;
  if (empty >= WRITTEN) {
    context.fillStyle = theme.foreground;
    context.fillText(text, left + filled + empty / 2, y);
  } else if (filled >= WRITTEN) {
    context.fillStyle = colour ? inkOn(colour) : theme.foreground;
    context.fillText(text, left + filled / 2, y);
  }
}
