/**
 * Draws extension/media/icon.png: `node extension/media/icon.ts`. A matrix product operator as physicists draw it: three cores on a
 * chain, each with an output leg up and an input leg down. Shapes are signed distances, so edges are smooth without a graphics library.
 */
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { crc32, deflateSync } from 'node:zlib';

type Colour = readonly [number, number, number];

const SIZE = 256;
const MIDDLE = SIZE / 2;
const CORES = [56, 128, 200] as const;
const RADIUS = 22;
const BACKGROUND: Colour = [22, 32, 46];
const BOND: Colour = [148, 168, 194];
const FILLS: readonly Colour[] = [
  [45, 212, 191],
  [56, 189, 248],
  [167, 139, 250],
];

/** Distance in pixels from (x, y) to the segment a–b, less half its width: negative inside. */
function segment(x: number, y: number, ax: number, ay: number, bx: number, by: number, width: number): number {
  const along = Math.min(1, Math.max(0, ((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / ((bx - ax) ** 2 + (by - ay) ** 2)));
  return Math.hypot(x - ax - along * (bx - ax), y - ay - along * (by - ay)) - width / 2;
}

function roundedSquare(x: number, y: number, radius: number): number {
  const dx = Math.max(Math.abs(x - MIDDLE) - (MIDDLE - radius), 0);
  const dy = Math.max(Math.abs(y - MIDDLE) - (MIDDLE - radius), 0);
  return Math.hypot(dx, dy) - radius;
}

/** Lays `colour` over `below` where `distance` is negative, half-way on the edge. */
function over(below: Colour, colour: Colour, distance: number): Colour {
  const alpha = Math.min(1, Math.max(0, 0.5 - distance));
  const mix = (i: 0 | 1 | 2) => below[i] * (1 - alpha) + colour[i] * alpha;
  return [mix(0), mix(1), mix(2)];
}

function pixel(x: number, y: number): readonly number[] {
  const lines = [
    segment(x, y, CORES[0], MIDDLE, CORES[2], MIDDLE, 13),
    ...CORES.flatMap(core => [segment(x, y, core, 58, core, MIDDLE, 9), segment(x, y, core, MIDDLE, core, 198, 9)]),
  ];
  let colour = over(BACKGROUND, BOND, Math.min(...lines));
  CORES.forEach((core, i) => {
    colour = over(colour, FILLS[i] ?? BOND, Math.hypot(x - core, y - MIDDLE) - RADIUS);
  });
  const inside = Math.min(1, Math.max(0, 0.5 - roundedSquare(x, y, 48)));
  return [...colour.map(Math.round), Math.round(255 * inside)];
}

function chunk(type: string, data: Buffer): Buffer {
  const body = Buffer.concat([Buffer.from(type, 'latin1'), data]);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(data.length);
  const check = Buffer.alloc(4);
  check.writeUInt32BE(crc32(body));
  return Buffer.concat([length, body, check]);
}

/** An 8-bit RGBA PNG (W3C PNG specification, filter type 0 on every row). */
function png(size: number, at: (x: number, y: number) => readonly number[]): Buffer {
  const header = Buffer.alloc(13);
  header.writeUInt32BE(size, 0);
  header.writeUInt32BE(size, 4);
  header.set([8, 6, 0, 0, 0], 8);
  const rows = Array.from({ length: size }, (_, y) => [0, ...Array.from({ length: size }, (_, x) => at(x + 0.5, y + 0.5)).flat()]);
  const signature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
  return Buffer.concat([signature, chunk('IHDR', header), chunk('IDAT', deflateSync(Buffer.from(rows.flat()), { level: 9 })), chunk('IEND', Buffer.alloc(0))]);
}

writeFileSync(path.join(import.meta.dirname, 'icon.png'), png(SIZE, pixel));
