/** What leaves the view as a file. No DOM here, but for PNG. */
import type { Theme } from '../ui/theme.ts';
import { type Content, valuesOf } from './content.ts';
import { pngOf } from '../ui/png.ts';
import { csvOf } from './rows.ts';
import { pictureOf } from './scene.ts';
import { svgOf } from '../ui/svg.ts';

export type FileKind = 'csv' | 'png' | 'svg';

/** @returns the proposed name, and the text of the file or a data URL. */
export function fileOf(kind: FileKind, content: Content, overlay: Readonly<Record<string, number>> | undefined, theme: Theme): { readonly name: string; readonly text: string } {
  const { figures, grid, metrics, shown } = content;
  const scene = () => pictureOf({ figures, grid, shown, values: valuesOf(content), overlay, theme });
  const made = { csv: () => csvOf(figures, shown, metrics), png: () => pngOf(scene()), svg: () => svgOf(scene()) };
  return { name: `${figures.profile.model.name}-${shown.metric.id.replace(':', '-')}.${kind}`, text: made[kind]() };
}
