import { appendFile, mkdtemp, rename, rm, truncate, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Journal } from '../../extension/runs/journal.ts';

let folder: string;
let file: string;

beforeEach(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), 'bondwise-journal-'));
  file = path.join(folder, 'events.ndjson');
});
afterEach(() => rm(folder, { recursive: true, force: true }));

function line(seq: number, fields: object): string {
  return `${JSON.stringify({ seq, time: '2026-01-01T00:00:00Z', ...fields })}\n`;
}

function layer(seq: number, name: string, keep = 0.5): string {
  const figures = { out_modes: [1, 8], in_modes: [8, 1], bond_dims: [4], parameters: 64, original_parameters: 128, bytes: 128, original_bytes: 256 };
  return line(seq, { type: 'layer', layer: { name, ...figures, keep, relative_error: 0.1, multiply_adds: 64, original_multiply_adds: 128, seconds: 0.1 } });
}

const warning = (seq: number, message: string): string => line(seq, { type: 'warning', message });
const started = (seq: number): string => line(seq, { type: 'started', engine: '1', torch: '2', device: 'cpu', resumed: seq > 1 });
const ended = (seq: number): string => line(seq, { type: 'ended', state: 'failed', error: { message: 'no memory' } });

describe('the journal', () => {
  it('is empty when there is none, and says nothing new twice', async () => {
    const journal = new Journal(file);
    expect(await journal.read()).toBe(false);
    await writeFile(file, warning(1, 'a'));
    expect(await journal.read()).toBe(true);
    expect(await journal.read()).toBe(false);
    expect(journal.summary).toMatchObject({ seq: 1, warnings: ['a'] });
  });

  it('lets a torn last line wait, at every byte of it, also inside a character', async () => {
    const text = Buffer.from(warning(1, 'first') + warning(2, 'χ × Ŵ'));
    const first = Buffer.byteLength(warning(1, 'first'));
    for (let cut = first; cut < text.length; cut += 1) {
      await writeFile(file, text.subarray(0, cut));
      const journal = new Journal(file);
      await journal.read();
      expect(journal.summary.warnings).toEqual(['first']);
      await appendFile(file, text.subarray(cut));
      await journal.read();
      expect(journal.summary.warnings).toEqual(['first', 'χ × Ŵ']);
      expect(journal.problem).toBeUndefined();
    }
  });

  it('takes the new line that a resume writes in place of a torn one', async () => {
    await writeFile(file, warning(1, 'first') + '{"seq":2,"type":"warn');
    const journal = new Journal(file);
    await journal.read();
    await truncate(file, Buffer.byteLength(warning(1, 'first')));
    await journal.read();
    await appendFile(file, started(2));
    await journal.read();
    expect(journal.summary).toMatchObject({ seq: 2, starts: 1, warnings: ['first'] });
    expect(journal.problem).toBeUndefined();
  });

  it('reads a file anew that was replaced or cut', async () => {
    await writeFile(file, warning(1, 'old') + warning(2, 'older'));
    const journal = new Journal(file);
    await journal.read();
    await writeFile(`${file}.new`, warning(1, 'new'));
    await rename(`${file}.new`, file);
    await journal.read();
    expect(journal.summary.warnings).toEqual(['new']);
    await truncate(file, 0);
    await journal.read();
    expect(journal.summary.seq).toBe(0);
    await rm(file);
    expect(await journal.read()).toBe(false);
  });

  it('forgets the end and the error of a process when another takes over', async () => {
    await writeFile(file, started(1) + layer(2, 'a', 0.4) + ended(3));
    const journal = new Journal(file);
    await journal.read();
    expect(journal.summary).toMatchObject({ starts: 1, error: { message: 'no memory' }, ended: { state: 'failed' } });
    await appendFile(file, started(4) + layer(5, 'b') + layer(6, 'a', 0.5));
    await journal.read();
    expect(journal.summary.error).toBeUndefined();
    expect(journal.summary.ended).toBeUndefined();
    expect(journal.summary.starts).toBe(2);
    expect(journal.summary.layers.map(each => [each.name, each.keep])).toEqual([['b', 0.5], ['a', 0.5]]);
  });

  it('names the line that is wrong and reads on', async () => {
    await writeFile(file, `${warning(1, 'a')}not json\n${warning(2, 'b')}`);
    const journal = new Journal(file);
    await journal.read();
    expect(journal.problem).toBe('line 2 of events.ndjson is not JSON: not json');
    expect(journal.summary.warnings).toEqual(['a', 'b']);
  });

  it('names an event with a wrong field, and events that are missing', async () => {
    await writeFile(file, line(1, { type: 'warning', message: 7 }));
    const wrong = new Journal(file);
    await wrong.read();
    expect(wrong.problem).toMatch(/^line 1 of events\.ndjson is not a valid event: .*message must be string/);
    await writeFile(file, warning(1, 'a') + warning(4, 'd'));
    const gap = new Journal(file);
    await gap.read();
    expect(gap.problem).toBe('events.ndjson lacks the events 2 to 3');
  });

  it('passes over event types of a newer engine, and repeated numbers', async () => {
    await writeFile(file, warning(1, 'a') + line(2, { type: 'entanglement', spectrum: [1] }) + warning(3, 'c') + warning(3, 'again'));
    const journal = new Journal(file);
    await journal.read();
    expect(journal.problem).toBeUndefined();
    expect(journal.summary).toMatchObject({ seq: 3, warnings: ['a', 'c'] });
  });

  it('reads 100 000 events while other work gets its turns, then only what is new', async () => {
    const count = 100_000;
    await writeFile(file, Array.from({ length: count }, (_, index) => layer(index + 1, `model.layers.${index}`)).join(''));
    const journal = new Journal(file);
    let turns = 0;
    let reading = true;
    const turn = (): void => {
      turns += 1;
      if (reading) {
        setImmediate(turn);
      }
    };
    setImmediate(turn);
    await journal.read();
    reading = false;
    expect(journal.summary.layers).toHaveLength(count);
    // 40 MB in chunks of 256 kB: at least one turn for each.
    expect(turns).toBeGreaterThan(100);
    await appendFile(file, warning(count + 1, 'last'));
    await journal.read();
    expect(journal.summary).toMatchObject({ seq: count + 1, warnings: ['last'] });
  }, 60_000);
});
