/** Line charts: the only module that imports chart.js. Measured points with error bars, dashed predictions, a crosshair. */
import {
  Chart,
  Interaction,
  type InteractionItem,
  type InteractionModeFunction,
  LinearScale,
  LineController,
  LineElement,
  LogarithmicScale,
  type Plugin,
  PointElement,
  Tooltip,
} from 'chart.js';
import { h } from './dom.ts';
import type { Plot, PlotAxis, PlotLine, PlotPoint } from './plot.ts';
import type { Theme } from './theme.ts';

declare module 'chart.js' {
  interface InteractionModeMap {
    crosshair: InteractionModeFunction;
  }
}

Chart.register(LineController, LineElement, PointElement, LinearScale, LogarithmicScale, Tooltip);
Interaction.modes.crosshair = crosshair;

/** With more lines than these a hover tells of the nearest only. */
const MOST_TOLD = 8;
const SPARSE = 7;
/** Points this near, in pixels, count as one place on the x axis: layers of other shapes keep not quite the same. */
const TOGETHER = 6;

export class LinePlot {
  readonly element: HTMLElement;
  readonly #canvas = document.createElement('canvas');
  #chart: Chart<'line', PlotPoint[]> | undefined;
  #plot: Plot | undefined;
  #theme: Theme | undefined;

  constructor() {
    this.element = h('div', { class: 'plot' }, this.#canvas);
    this.#canvas.setAttribute('role', 'img');
  }

  show(plot: Plot, theme: Theme): void {
    this.#plot = plot;
    this.#theme = theme;
    this.#canvas.setAttribute('aria-label', plot.label);
    const data = { datasets: plot.lines.map(line => dataset(line, theme)) };
    const options = optionsOf(plot, theme);
    if (this.#chart) {
      this.#chart.data = data;
      this.#chart.options = options;
      this.#chart.update('none');
    } else {
      this.#chart = new Chart(this.#canvas, { type: 'line', data, options, plugins: [this.#marks()] });
    }
  }

  dispose(): void {
    this.#chart?.destroy();
    this.#chart = undefined;
  }

  /** What chart.js does not draw: the level, the size shown, error bars below the points, and the crosshair above. */
  #marks(): Plugin<'line'> {
    let crossed: { readonly x: number; readonly y: number } | undefined;
    return {
      id: 'marks',
      beforeDatasetsDraw: chart => {
        const [plot, theme] = [this.#plot, this.#theme];
        const { ctx, chartArea: area, scales } = chart;
        if (!plot || !theme || !scales.x || !scales.y) {
          return;
        }
        ctx.save();
        ctx.beginPath();
        ctx.rect(area.left, area.top, area.width, area.height);
        ctx.clip();
        ctx.strokeStyle = ctx.fillStyle = theme.muted;
        for (const level of plot.levels ?? []) {
          const y = scales.y.getPixelForValue(level.y);
          line(ctx, [6, 4], area.left, y, area.right, y);
          ctx.font = `10px ${theme.font}`;
          ctx.textBaseline = y - area.top < 14 ? 'top' : 'bottom';
          ctx.textAlign = 'right';
          ctx.fillText(level.text, area.right - 4, y + (y - area.top < 14 ? 2 : -2));
        }
        if (plot.at !== undefined) {
          const x = scales.x.getPixelForValue(plot.at);
          line(ctx, [1, 3], x, area.top, x, area.bottom);
        }
        plot.lines.forEach(({ points, colour }, index) => {
          ctx.strokeStyle = colour;
          chart.getDatasetMeta(index).data.forEach(({ x }, at) => {
            const { low, high } = points[at] ?? {};
            if (low !== undefined && high !== undefined && scales.y) {
              bar(ctx, x, scales.y.getPixelForValue(Math.max(low, scales.y.min)), scales.y.getPixelForValue(high));
            }
          });
        });
        ctx.restore();
      },
      afterEvent: (chart, { event, inChartArea }) => {
        crossed = inChartArea && event.type !== 'mouseout' && event.x !== null && event.y !== null ? { x: event.x, y: event.y } : undefined;
        chart.draw();
      },
      afterDatasetsDraw: ({ ctx, chartArea: area, tooltip }) => {
        if (crossed && this.#theme) {
          const x = tooltip?.opacity ? tooltip.caretX : crossed.x;
          ctx.save();
          ctx.strokeStyle = this.#theme.foreground;
          ctx.globalAlpha = 0.6;
          line(ctx, [], x, area.top, x, area.bottom);
          line(ctx, [], area.left, crossed.y, area.right, crossed.y);
          ctx.restore();
        }
      },
    };
  }
}

function dataset({ label, colour, shape, kind, points }: PlotLine, theme: Theme) {
  const every = Math.max(1, Math.ceil(points.length / SPARSE));
  const radius = kind === 'point' ? 7 : shape ? 4 : 3;
  const isSolid = kind !== 'predicted';
  return {
    label,
    data: [...points],
    borderColor: colour,
    backgroundColor: isSolid ? colour : theme.background,
    pointBackgroundColor: isSolid ? colour : theme.background,
    pointBorderColor: kind === 'point' ? theme.background : colour,
    pointStyle: points.map(({ cut }) => (cut ? ('triangle' as const) : (shape ?? ('circle' as const)))),
    pointRotation: points.map(({ cut }) => (cut ? 180 : 0)),
    pointRadius: points.map((_, index) => (kind === 'trend' && points.length > 1 ? 0 : isSolid ? radius : shape && index % every === Math.floor(every / 2) ? 3 : 0)),
    pointHoverRadius: radius + 1,
    borderWidth: kind === 'trend' ? 1.2 : 1.5,
    borderDash: isSolid ? [] : [5, 3],
    showLine: kind !== 'point',
    // Marks at the edge of the chart are drawn whole.
    clip: 6,
    // What has marks lies on top.
    order: isSolid && kind !== 'trend' ? 0 : 1,
  };
}

function optionsOf({ x, y, lines, onPick }: Plot, theme: Theme): NonNullable<ConstructorParameters<typeof Chart<'line', PlotPoint[]>>[1]['options']> {
  const grid = { color: `color-mix(in srgb, ${theme.muted} ${theme.contrast ? 60 : 22}%, transparent)` };
  const font = { family: theme.font, size: 11 };
  const axis = ({ title, bare, scale, min, max, format }: PlotAxis) => ({
    type: scale === 'log' ? ('logarithmic' as const) : ('linear' as const),
    ...(min === undefined ? {} : { min }),
    ...(max === undefined ? {} : { max }),
    title: { display: bare !== true, text: title, color: theme.foreground, font },
    ticks: {
      color: theme.muted,
      font,
      maxRotation: 0,
      includeBounds: false,
      autoSkipPadding: 8,
      callback: (value: string | number) => (scale === 'log' && !isRound(Number(value)) ? null : format(Number(value))),
    },
    grid,
    border: { color: theme.border },
  });
  const told = lines.length > MOST_TOLD;
  return {
    animation: false,
    parsing: false,
    normalized: true,
    maintainAspectRatio: false,
    interaction: told ? { mode: 'nearest', axis: 'xy', intersect: false } : { mode: 'crosshair', intersect: false },
    scales: { x: axis(x), y: axis(y) },
    onClick: (_, [element]) => element && onPick?.(element.datasetIndex, element.index),
    plugins: {
      tooltip: {
        animation: false,
        backgroundColor: theme.background,
        borderColor: theme.border,
        borderWidth: 1,
        titleColor: theme.foreground,
        bodyColor: theme.foreground,
        titleFont: { ...font, weight: 600 },
        bodyFont: font,
        usePointStyle: true,
        boxPadding: 4,
        callbacks: {
          title: ([item]) => (item?.parsed.x === undefined || item.parsed.x === null ? '' : `${x.title.split(',')[0] ?? ''} ${x.format(item.parsed.x)}`),
          label: ({ dataset, raw }) => `${dataset.label ?? ''}: ${(raw as PlotPoint).text}`,
        },
      },
    },
  };
}

/** Of each line the point that is nearest along x, as far as these are about equally near. */
function crosshair(chart: Chart, event: { readonly x: number | null }): InteractionItem[] {
  const at = event.x ?? 0;
  const far = ({ element }: InteractionItem) => Math.abs(element.x - at);
  const nearest = chart.getSortedVisibleDatasetMetas().flatMap(meta => {
    const items = meta.data.map((element, index) => ({ element, datasetIndex: meta.index, index }));
    return items.sort((a, b) => far(a) - far(b)).slice(0, 1);
  });
  const least = Math.min(...nearest.map(far));
  return nearest.filter(item => far(item) <= least + TOGETHER).sort((a, b) => a.element.y - b.element.y);
}

/** 1, 2 or 5 times a power of ten: what fits on a logarithmic axis. */
function isRound(value: number): boolean {
  const digit = value / 10 ** Math.floor(Math.log10(value) + 1e-9);
  return [1, 2, 5].some(round => Math.abs(digit / round - 1) < 1e-6);
}

function line(context: CanvasRenderingContext2D, dash: number[], x0: number, y0: number, x1: number, y1: number): void {
  context.setLineDash(dash);
  context.lineWidth = 1;
  context.beginPath();
  context.moveTo(x0, y0);
  context.lineTo(x1, y1);
  context.stroke();
}

function bar(context: CanvasRenderingContext2D, x: number, from: number, to: number): void {
  line(context, [], x, from, x, to);
  line(context, [], x - 3, from, x + 3, from);
  line(context, [], x - 3, to, x + 3, to);
}
