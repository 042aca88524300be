/** The last plan that was made from each profile, for whatever shows that profile. */
import type { PlanResult } from '../protocol/types.ts';
import { Emitter, type Event } from '../runs/emitter.ts';

export interface ShownPlan {
  /** Of the plan file, or of what was only looked at. */
  readonly name: string;
  readonly plan: PlanResult;
}

export class PlanOverlay {
  readonly #plans = new Map<string, ShownPlan>();
  readonly #changed = new Emitter<string>();
  /** Fired with the path of the profile. */
  readonly onDidChange: Event<string> = this.#changed.event;

  get(profile: string): ShownPlan | undefined {
    return this.#plans.get(profile);
  }

  /** Shows a plan on a profile; undefined takes it away. */
  set(profile: string, shown: ShownPlan | undefined): void {
    if (shown) {
      this.#plans.set(profile, shown);
    } else if (!this.#plans.delete(profile)) {
      return;
    }
    this.#changed.fire(profile);
  }

  dispose(): void {
    this.#plans.clear();
    this.#changed.dispose();
  }
}
