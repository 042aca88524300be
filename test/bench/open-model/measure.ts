/** One row of the benchmark open-model: opens a folder several times and prints the figures as JSON. */
import { openModel } from '../../../extension/checkpoint/index.ts';
import { openCheckpoint } from '../../../extension/safetensors-ts/src/index.ts';

const [, , what, folder = '', repeats = '3'] = process.argv;
const open = what === 'model' ? openModel : openCheckpoint;

/** Milliseconds of one open, and the longest time in it that the event loop did not come round. */
async function timed(): Promise<{ readonly ms: number; readonly blocked: number }> {
  let last = performance.now();
  let blocked = 0;
  const tick = (): void => {
    const now = performance.now();
    blocked = Math.max(blocked, now - last);
    last = now;
  };
  const timer = setInterval(tick, 1);
  const start = performance.now();
  await open(folder);
  const ms = performance.now() - start;
  tick();
  clearInterval(timer);
  return { ms, blocked };
}

/** After what is no longer needed is gone: finished promises let go of their values only on the next turn. */
async function heapUsed(): Promise<number> {
  for (let i = 0; i < 3; i++) {
    await new Promise((resolve) => setTimeout(resolve, 20));
    globalThis.gc?.();
  }
  return process.memoryUsage().heapUsed;
}

const first = await timed();
const more: { readonly ms: number; readonly blocked: number }[] = [];
for (let i = 0; i < Number(repeats); i++) more.push(await timed());
const sorted = more.map(({ ms }) => ms).sort((a, b) => a - b);

const before = await heapUsed();
const kept: unknown = await open(folder);
const after = await heapUsed();

console.log(
  JSON.stringify({
    first_ms: first.ms,
    median_ms: sorted[Math.floor(sorted.length / 2)] ?? first.ms,
    longest_block_ms: Math.max(first.blocked, ...more.map(({ blocked }) => blocked)),
    heap_mb: kept === undefined ? 0 : (after - before) / 1e6,
    peak_mb: process.resourceUsage().maxRSS / 1e3,
  }),
);
