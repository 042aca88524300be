/** What a journal says, as one value: a fold over its events. */
import { BenchmarkFold } from '../benchmark/fold.ts';
import { ProfileFold } from '../profile/fold.ts';
import { HealFold, type History } from './healFold.ts';
import type {
  Benchmark,
  EndedEvent,
  ErrorInfo,
  EstimateEvent,
  Evaluation,
  LayerFigures,
  QuantizedLayer,
  RunEvent,
  Sensitivity,
  StartedEvent,
  VerifiedEvent,
} from '../protocol/types.ts';

export interface RunSummary {
  /** Number of the last event folded in; 0 before the first. */
  readonly seq: number;
  /** How often a process took the run up: 2 after one resume. */
  readonly starts: number;
  readonly started?: StartedEvent;
  readonly estimate?: EstimateEvent;
  readonly phase?: string;
  /** Finished layers in the order of the journal; a layer done again after a resume stands once, with its last figures. */
  readonly layers: readonly LayerFigures[];
  /** Layers in fewer bits, likewise. */
  readonly quantized: readonly QuantizedLayer[];
  readonly evaluations: { readonly original?: Evaluation; readonly compressed?: Evaluation; readonly healed?: Evaluation; readonly quantized?: Evaluation };
  readonly verified?: VerifiedEvent;
  /** What a profile has found so far. */
  readonly profile?: Sensitivity;
  /** What a benchmark has found so far. */
  readonly benchmark?: Benchmark;
  /** How a healing has gone so far. */
  readonly heal?: History;
  /** Each warning once. */
  readonly warnings: readonly string[];
  /** How the last process ended; absent while one works, and after one that could not say. */
  readonly ended?: EndedEvent;
  readonly error?: ErrorInfo;
}

/** What is folded by replacing; the rest is gathered. */
type Plain = Omit<RunSummary, 'layers' | 'quantized' | 'warnings' | 'profile' | 'heal' | 'benchmark'>;

export const EMPTY_SUMMARY: RunSummary = { seq: 0, starts: 0, layers: [], quantized: [], evaluations: {}, warnings: [] };

/** The fold, event by event, so that a long journal can be folded in slices. `value` takes a snapshot. */
export class Fold {
  #plain: Plain = EMPTY_SUMMARY;
  readonly #profile = new ProfileFold();
  readonly #benchmark = new BenchmarkFold();
  readonly #heal = new HealFold();
  readonly #layers = new Map<string, LayerFigures>();
  readonly #quantized = new Map<string, QuantizedLayer>();
  readonly #warnings = new Set<string>();

  get seq(): number {
    return this.#plain.seq;
  }

  get value(): RunSummary {
    const [profile, heal, benchmark] = [this.#profile.value, this.#heal.value, this.#benchmark.value];
    const found = { ...(profile && { profile }), ...(heal && { heal }), ...(benchmark && { benchmark }) };
    return { ...this.#plain, layers: [...this.#layers.values()], quantized: [...this.#quantized.values()], warnings: [...this.#warnings], ...found };
  }

  /** Adds an event; one that was folded in already (`seq` not above the last) is passed over. */
  add(event: RunEvent): void {
    if (event.seq <= this.#plain.seq) {
      return;
    }
    if (event.type === 'layer') {
      this.#layers.delete(event.layer.name);
      this.#layers.set(event.layer.name, event.layer);
    } else if (event.type === 'quantized') {
      this.#quantized.delete(event.layer.name);
      this.#quantized.set(event.layer.name, event.layer);
    } else if (event.type === 'warning') {
      this.#warnings.add(event.message);
    }
    this.#profile.add(event);
    this.#benchmark.add(event);
    this.#heal.add(event);
    this.#plain = { ...step(this.#plain, event), seq: event.seq };
  }

  /** Counts an event whose content means nothing to this version. */
  skip(seq: number): void {
    this.#plain = { ...this.#plain, seq: Math.max(seq, this.#plain.seq) };
  }
}

function step(before: Plain, event: RunEvent): Plain {
  switch (event.type) {
    case 'started': {
      // The end of the process before is no longer the end of the run.
      const { seq, estimate, phase, evaluations, verified, starts } = before;
      return { seq, evaluations, starts: starts + 1, started: event, ...(estimate && { estimate }), ...(phase && { phase }), ...(verified && { verified }) };
    }
    case 'estimate':
      return { ...before, estimate: event };
    case 'phase':
      return { ...before, phase: event.phase };
    case 'evaluation':
      return { ...before, evaluations: { ...before.evaluations, [event.role]: event.evaluation } };
    case 'verified':
      return { ...before, verified: event };
    case 'ended':
      return event.error ? { ...before, ended: event, error: event.error } : { ...before, ended: event };
    case 'layer':
    case 'quantized':
    case 'warning':
    case 'profile':
    case 'curve':
    case 'baseline':
    case 'cell':
    case 'heal-plan':
    case 'heal-step':
    case 'heal-validation':
    case 'benchmark':
    case 'benchmark-model':
      return before;
  }
}
