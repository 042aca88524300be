/** What a chart shows, as plain values: no DOM here. */

export type Shape = 'circle' | 'triangle' | 'rect' | 'rectRot' | 'star' | 'cross' | 'crossRot' | 'dash';

export interface PlotPoint {
  readonly x: number;
  readonly y: number;
  /** Ends of the error bar. */
  readonly low?: number;
  readonly high?: number;
  /** What a hover says of it. */
  readonly text: string;
  /** It lies outside and is drawn at the edge. */
  readonly cut?: boolean;
}

export interface PlotLine {
  readonly label: string;
  readonly colour: string;
  /** Undefined where it would tell nothing: then a predicted line has no marks at all. */
  readonly shape: Shape | undefined;
  /** Measured: a mark at each point. Predicted: a dashed line with few marks. Trend: a line of many points, without marks. */
  readonly kind: 'measured' | 'predicted' | 'point' | 'trend';
  readonly points: readonly PlotPoint[];
}

export interface PlotAxis {
  readonly title: string;
  /** The title is said by hovers and not drawn. */
  readonly bare?: boolean;
  readonly scale: 'log' | 'linear';
  readonly min?: number;
  readonly max?: number;
  readonly format: (value: number) => string;
}

export interface Plot {
  /** For who does not see it. */
  readonly label: string;
  readonly x: PlotAxis;
  readonly y: PlotAxis;
  readonly lines: readonly PlotLine[];
  /** Levels to compare with, such as the original model's. */
  readonly levels?: readonly { readonly y: number; readonly text: string }[];
  /** The size that the heatmap shows. */
  readonly at?: number;
  readonly onPick?: (line: number, point: number) => void;
}
