import { describe, expect, test } from 'vitest';
import { Figures } from '../../webview/sensitivity/figures.ts';
import { Grid } from '../../webview/ui/grid.ts';
import { contentOf, valuesOf } from '../../webview/sensitivity/content.ts';
import { columnsOf, csvOf, rowsOf } from '../../webview/sensitivity/rows.ts';
import { pictureOf } from '../../webview/sensitivity/scene.ts';
import { stripesOf } from '../../webview/ui/scene.ts';
import { sortRows } from '../../webview/ui/layerRows.ts';
import { svgOf } from '../../webview/ui/svg.ts';
import { makePlan, makeProfile, SMOL } from './heatmapProfile.ts';

const shape = { ...SMOL, blocks: 12 };
const full = makeProfile(shape);
const content = contentOf(full, { metric: 'perplexity', axis: 'keep', size: 0.3 }, undefined);
const theme = { dark: true, background: '#1f1f1f', foreground: '#cccccc', muted: '#9d9d9d' };

describe('the table', () => {
  const plan = makePlan(full).layers;
  const rows = rowsOf(content.figures, content.shown, plan);
  const columns = columnsOf(content.shown.metric, true);
  const cells = (index: number) => columns.map(column => column.text(rows[index] ?? expect.fail()));

  test('has the numbers of the heatmap, a row a layer', () => {
    expect(rows).toHaveLength(84);
    expect(columns.map(({ name }) => name)).toEqual([
      'Layer', 'Perplexity', 'Noise', 'χ', 'Kept', 'Parameters', 'Size', 'Predicted loss', 'Measured loss', 'Sequences', 'Plan',
    ]);
    expect(cells(0)).toEqual(['model.layers.0.self_attn.q_proj', expect.stringMatching(/ ± /), 'beyond', '94', '30%', '99 K', '199 kB', expect.any(String), expect.stringMatching(/ ± /), expect.any(String), 'dense']);
    expect(columnsOf(content.shown.metric, false).map(({ id }) => id)).not.toContain('plan');
  });

  test('sorts by what is meant, with what is missing last either way', () => {
    const part = { ...content, figures: new Figures({ ...full, cells: full.cells?.slice(0, 84 * 2 + 10) ?? [] }) };
    const some = rowsOf(part.figures, part.shown, undefined);
    for (const descending of [false, true]) {
      const values = sortRows(some, columns, { column: 'metric', descending }).map(({ value }) => value?.value);
      const known = values.filter(value => value !== undefined);
      expect(known).toHaveLength(10);
      expect(values.slice(0, 10)).toEqual(known.toSorted((a, b) => (descending ? b - a : a - b)));
    }
    const names = sortRows(rows, columns, { column: 'layer', descending: false }).map(({ layer }) => layer.block);
    expect(names).toEqual(names.toSorted((a, b) => a - b));
    expect(sortRows(rows, columns, { column: 'gone', descending: false })).toBe(rows);
  });
});

describe('the CSV', () => {
  const text = csvOf(content.figures, content.shown, content.metrics);
  const lines = text.trimEnd().split('\r\n').map(line => line.split(','));

  test('has every layer at every size, in full', () => {
    expect(lines).toHaveLength(1 + 84 * 4);
    expect(new Set(lines.map(({ length }) => length)).size).toBe(1);
    const [head = []] = lines;
    const row = lines.find(([name, , , size]) => name === 'model.layers.0.self_attn.q_proj' && size === '0.3') ?? expect.fail();
    const at = (name: string) => row[head.indexOf(name)];
    const cell = full.cells?.find(({ layer, chi }) => layer === row[0] && chi === 94) ?? expect.fail();
    expect([at('block'), at('chi'), at('parameters')]).toEqual(['0', '94', '99452']);
    expect([at('loss'), at('loss_error'), at('kl')].map(Number)).toEqual([cell.figures.loss?.value, cell.figures.loss?.error, cell.figures.kl?.value]);
    expect(Number(at('perplexity'))).toBeCloseTo(Math.exp(cell.figures.loss?.value ?? NaN), 12);
    expect(head).toContain('predicted_fisher');
    expect(head).toContain('relative_error');
  });

  test('keeps names that would be formulas or break the line as text', () => {
    const [first, second, ...rest] = full.layers;
    const layers = [{ ...(first ?? expect.fail()), name: '=HYPERLINK("x")', column: 'a,b' }, { ...(second ?? expect.fail()), name: 'two\nlines' }, ...rest];
    const cells = (full.cells ?? []).map(cell => (cell.layer === first?.name ? { ...cell, layer: '=HYPERLINK("x")' } : cell.layer === second?.name ? { ...cell, layer: 'two\nlines' } : cell));
    const csv = csvOf(new Figures({ ...full, layers, cells, curves: [] }), content.shown, content.metrics);
    expect(csv).toContain(`\r\n"'=HYPERLINK(""x"")",0,"a,b",`);
    expect(csv).toContain('\r\n"two\nlines",0,');
  });
});

describe('the picture', () => {
  const values = valuesOf(content);
  const scene = pictureOf({ ...content, values, overlay: undefined, theme });
  const boxes = scene.items.filter(item => item.kind === 'box');

  test('has a box a layer in the colours of the heatmap, and lies inside its frame', () => {
    const cells = boxes.filter(({ width, height }) => width === 63 && height === 17);
    expect(cells).toHaveLength(84);
    expect(new Set(cells.map(({ x, y }) => `${x} ${y}`)).size).toBe(84);
    const worst = values.reduce((best, value, index) => ((value?.rise ?? 0) > (values[best]?.rise ?? 0) ? index : best), 0);
    const position = content.figures.scale(content.shown.metric).position(values[worst]?.rise ?? 0);
    expect(position).toBeGreaterThan(0.5);
    for (const item of scene.items.filter(each => each.kind !== 'line')) {
      expect(item.x).toBeGreaterThanOrEqual(0);
      expect(item.y).toBeLessThanOrEqual(scene.height);
      expect('width' in item ? item.x + item.width : item.x).toBeLessThanOrEqual(scene.width);
    }
  });

  test('says what it shows, and what its marks mean', () => {
    const texts = scene.items.flatMap(item => (item.kind === 'text' ? [item.text] : []));
    expect(texts).toEqual(expect.arrayContaining(['Sensitivity of SmolLM2-135M-Instruct', 'Perplexity, 30% kept of each layer, one layer at a time', 'Attention', 'MLP', 'q', 'down', '11', 'original: 15.4']));
    expect(scene.items.filter(({ kind }) => kind === 'dot')).toHaveLength(values.filter(value => value?.noise).length);
    expect(texts.some(text => text.includes('2 standard errors'))).toBe(true);
    expect(texts.some(text => text.includes('striped'))).toBe(false);
  });

  test('writes what a plan keeps, and stripes what is not known', () => {
    const part = contentOf(makeProfile(shape, 0.25), { size: 0.3 }, undefined);
    const plan = makePlan(full).layers;
    const drawn = pictureOf({ ...part, values: valuesOf(part), overlay: plan, theme });
    expect(drawn.items.filter(({ kind }) => kind === 'stripes')).toHaveLength(84);
    const shares = drawn.items.filter(item => item.kind === 'text' && /^\d+%$/.test(item.text));
    expect(shares).toHaveLength(Object.keys(plan).length);
    for (const [x0, y0, x1, y1] of stripesOf({ kind: 'stripes', x: 10, y: 20, width: 63, height: 17, stroke: 'red' })) {
      expect(Math.min(x0, x1)).toBeGreaterThanOrEqual(10);
      expect(Math.max(x0, x1)).toBeLessThanOrEqual(73);
      expect(Math.min(y0, y1)).toBeGreaterThanOrEqual(20);
      expect(Math.max(y0, y1)).toBeLessThanOrEqual(37);
      expect(x1 - x0).toBeCloseTo(y0 - y1, 10);
    }
  });

  test('as SVG is well-formed, whatever the names are', () => {
    const hostile = { ...full, model: { ...full.model, name: '</text><script>alert(1)</script>&\u0000"' } };
    const layers = hostile.layers.map(layer => ({ ...layer, column: layer.column.replace('q_proj', '<q>') }));
    const strange = contentOf({ ...hostile, layers }, {}, undefined);
    const svg = svgOf(pictureOf({ ...strange, values: valuesOf(strange), overlay: undefined, theme }));
    expect(svg).not.toContain('<script');
    expect(svg).not.toContain('\u0000');
    // Every tag is one of ours, closed or empty, and what is between has no markup.
    const rest = svg.replace(/<(?:rect|circle|path)(?: [a-z-]+="[^"<>]*")+\/>|<text(?: [a-z-]+="[^"<>]*")+>[^<>]*<\/text>/g, '').trim();
    expect(rest).toMatch(/^<svg xmlns="http:\/\/www\.w3\.org\/2000\/svg"(?: [a-zA-Z-]+="[^"<>]*")+>\s*<\/svg>$/);
    expect(svg).toContain('&#60;script&#62;');
    expect(svg.match(/&(?!#\d+;)/g)).toBeNull();
    expect(new Grid(layers).columns[0]?.label).toBe('<q>');
  });
});
