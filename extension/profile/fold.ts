/** A profile as it grows: the events of its run, folded onto what the first of them brought. */
import type { Cell, Curve, HostCells, RunEvent, Sensitivity } from '../protocol/types.ts';

export class ProfileFold {
  #head: Sensitivity | undefined;
  #baseline: Readonly<Record<string, number>> = {};
  readonly #curves = new Map<string, Curve>();
  readonly #cells = new Map<string, Cell>();
  #value: Sensitivity | undefined;

  /** The profile so far, the same object until an event changes it; undefined before the run has said what it covers. */
  get value(): Sensitivity | undefined {
    if (this.#head && !this.#value) {
      this.#value = { ...this.#head, baseline: this.#baseline, curves: [...this.#curves.values()], cells: [...this.#cells.values()] };
    }
    return this.#value;
  }

  add(event: RunEvent): void {
    switch (event.type) {
      case 'profile':
        this.start(event.profile);
        break;
      case 'curve':
        this.merge({ curves: [event.curve] });
        break;
      case 'baseline':
        this.merge({ baseline: event.baseline });
        break;
      case 'cell':
        this.merge({ cells: [event.cell] });
        break;
      default:
    }
  }

  /** What the profile covers; the figures that it brings are added. */
  start(profile: Sensitivity): void {
    this.#head = profile;
    this.merge(profile);
  }

  /** Adds what has come since. */
  merge({ curves, cells, baseline }: Pick<HostCells, 'curves' | 'cells' | 'baseline'>): void {
    if (baseline) {
      this.#baseline = { ...this.#baseline, ...baseline };
    }
    curves?.forEach(curve => this.#curves.set(curve.layer, curve));
    cells?.forEach(cell => this.#put(cell));
    this.#value = undefined;
  }

  /** Metric by metric: a cell that was measured by another metric before keeps that figure. */
  #put(cell: Cell): void {
    const key = cellKey(cell);
    this.#cells.set(key, { ...cell, figures: { ...this.#cells.get(key)?.figures, ...cell.figures } });
  }
}

/** Equal for the cells of one layer at one bond dimension. */
export function cellKey({ layer, chi }: Pick<Cell, 'layer' | 'chi'>): string {
  return `${layer}\n${chi}`;
}
