/** A benchmark as it grows: the events of its run, folded onto what the first of them brought. The engine's Book does the same. */
import type { Benchmark, BenchmarkModel, RunEvent } from '../protocol/types.ts';

export class BenchmarkFold {
  #head: Benchmark | undefined;
  #remarks: readonly string[] = [];
  readonly #models = new Map<string, BenchmarkModel>();
  #value: Benchmark | undefined;

  /** The benchmark so far, the same object until an event changes it; undefined before the run has said what it covers. */
  get value(): Benchmark | undefined {
    if (this.#head && !this.#value) {
      this.#value = { ...this.#head, models: [...this.#models.values()], remarks: [...this.#remarks] };
    }
    return this.#value;
  }

  add(event: RunEvent): void {
    if (event.type === 'benchmark') {
      const { models = [], remarks = [] } = event.benchmark;
      this.#head = event.benchmark;
      this.#models.clear();
      models.forEach(model => this.#models.set(model.path, model));
      this.#remarks = remarks;
      this.#value = undefined;
    } else if (event.type === 'benchmark-model') {
      this.#models.set(event.model.path, event.model);
      this.#remarks = event.remarks ?? [];
      this.#value = undefined;
    }
  }
}
