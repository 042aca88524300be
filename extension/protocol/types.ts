// Made by `npm run generate` from engine/bondwise/schema/. Edit that file, not this one.
export type HostMessage =
  | HostReply
  | HostCompare
  | HostSensitivity
  | HostCells
  | HostProfileRun
  | HostSelection
  | HostPlan
  | HostBenchmark
  | HostTensors
  | HostTensorFacts
  | HostRun
  | HostHeal
  | HostMap
  | HostDiff
  | HostChat
  | HostChatToken;
export type RunEvent =
  | StartedEvent
  | EstimateEvent
  | PhaseEvent
  | LayerEvent
  | QuantizedEvent
  | EvaluationEvent
  | VerifiedEvent
  | ProfileEvent
  | CurveEvent
  | BaselineEvent
  | CellEvent
  | HealPlanEvent
  | HealStepEvent
  | HealValidationEvent
  | BenchmarkEvent
  | BenchmarkModelEvent
  | WarningEvent
  | EndedEvent;
export type RunRequest =
  | TensorizeRequest
  | PerplexityRequest
  | SampleModelRequest
  | ProfileRequest
  | HealRequest
  | QuantizeRequest
  | BenchmarkRequest
  | ExportRequest;
export type RunResult =
  TensorizeResult | PerplexityResult | SampleModelResult | ProfileResult | HealResult | QuantizeResult | BenchmarkResult | ExportResult;
export type TensorDiffLine = TensorDiffStep | TensorDiff;

export interface BaseModelRef {
  /**
   * Relative to the folder of the file that says it, as it was when that was made.
   */
  path: string;
  name: string;
  /**
   * SHA-256 over config.json and the header of every shard.
   */
  fingerprint: string;
}
export interface BaselineEvent {
  /**
   * 1, 2, 3 … without gaps, across resumes.
   */
  seq: number;
  time: string;
  type: 'baseline';
  /**
   * Value of the original model, by metric.
   */
  baseline: {
    [k: string]: number;
  };
}
/**
 * `NAME.benchmark.json`: several models, measured alike.
 */
export interface Benchmark {
  version?: 1;
  engine: string;
  /**
   * Version of the LM Evaluation Harness.
   */
  harness?: string | null;
  created: string;
  machine?: string;
  device: string;
  /**
   * `weights` of the model that the others are compared with.
   */
  original?: string | null;
  models?: BenchmarkModel[];
  /**
   * What there is to say of them, in sentences.
   */
  remarks?: string[];
  /**
   * All that was asked for is there.
   */
  complete?: boolean;
}
export interface BenchmarkModel {
  /**
   * Relative to the folder of the file that says it.
   */
  path: string;
  name: string;
  /**
   * SHA-256 over config.json and the header of every shard.
   */
  fingerprint: string;
  /**
   * SHA-256 over config.json and all weight files: what the figures are of.
   */
  weights: string;
  /**
   * Fingerprint of the model that this one was made from.
   */
  base?: string | null;
  /**
   * Of the weight files on disk.
   */
  bytes: number;
  parameters: number;
  /**
   * Of a quantized model: before its values were packed; null where the tensors say it.
   */
  original_parameters?: number | null;
  /**
   * Bytes of tensors by stored dtype, by the format's name.
   */
  dtypes: {
    [k: string]: number;
  };
  /**
   * How it is quantized, such as int8 or nf4.
   */
  scheme?: string | null;
  /**
   * Of its weights, in words.
   */
  precision: string;
  mpo_layers?: number;
  healed?: boolean;
  footprint?: Footprint | null;
  perplexity?: Perplexity | null;
  samples?: TextSample[];
  tasks?: TaskResult[];
  speed?: Speed | null;
}
/**
 * Measured in a process that does nothing else.
 */
export interface Footprint {
  /**
   * From the folder to a model, files in the system's cache.
   */
  load_seconds: number;
  /**
   * Bytes: the most that loading and a pass over `tokens` took, without the libraries; on a GPU its memory.
   */
  memory: number;
  tokens: number;
  device: string;
}
export interface Perplexity {
  /**
   * The text: `builtin`, a hub data set, or a file, relative to the report's folder.
   */
  data: string;
  value: number;
  /**
   * Standard error, over sequences.
   */
  error: number;
  /**
   * Tokens in a sequence.
   */
  length: number;
  sequences: number;
}
export interface TextSample {
  prompt: string;
  /**
   * Greedy continuation.
   */
  text: string;
  chat?: boolean;
}
/**
 * A task of the LM Evaluation Harness on one model. Two of them compare where task, items, shots, chat, seed and data are equal.
 */
export interface TaskResult {
  task: string;
  /**
   * Of the task, as the harness says it.
   */
  version?: string;
  /**
   * Items that were asked for; null: all.
   */
  limit: number | null;
  /**
   * Solved examples before each item; null: as the task says.
   */
  shots: number | null;
  /**
   * The model's chat template was put around each item.
   */
  chat: boolean;
  /**
   * Of the choice of items and examples.
   */
  seed: number;
  /**
   * The local folder that the data sets were read from; null: the hub.
   */
  data: string | null;
  items: number;
  /**
   * Items that the data has.
   */
  available: number;
  /**
   * Solved examples that stood before each item.
   */
  examples?: number;
  metric: TaskMetric;
  /**
   * What guessing scores on these items; null where there is no such level.
   */
  chance?: number | null;
  /**
   * What always giving the same answer scores on these items, at best; null where answers differ.
   */
  constant?: number | null;
  metrics: TaskMetric1[];
  subtasks?: Subtask[];
  /**
   * `1` or `0` for each item, by task and item number, so that two models compare item by item; null for others.
   */
  outcomes?: string | null;
  seconds: number;
}
/**
 * The one that counts.
 */
export interface TaskMetric {
  name: string;
  /**
   * What was taken from the model's answer before it was judged; `none`: all of it.
   */
  filter?: string;
  value: number;
  /**
   * Standard error; null where the harness gives none.
   */
  error?: number | null;
  higher_is_better?: boolean;
}
/**
 * One of a task's metrics, by one of its filters.
 */
export interface TaskMetric1 {
  name: string;
  /**
   * What was taken from the model's answer before it was judged; `none`: all of it.
   */
  filter?: string;
  value: number;
  /**
   * Standard error; null where the harness gives none.
   */
  error?: number | null;
  higher_is_better?: boolean;
}
/**
 * One task of a group, such as a subject of MMLU: the group's metric on its items.
 */
export interface Subtask {
  name: string;
  items: number;
  value: number;
  error?: number | null;
  chance?: number | null;
}
export interface Speed {
  device: string;
  /**
   * That it was computed in.
   */
  dtype: string;
  threads: number;
  /**
   * `weights` of the model that took turns with it; null: it is the original.
   */
  original: string | null;
  /**
   * Tokens of a pass.
   */
  length: number;
  decode_tokens: number;
  forward: Timing;
  prefill: Timing1;
  decode: Timing2;
  /**
   * A step on the tokens: forward, backward, AdamW.
   */
  training?: Timing3 | null;
  /**
   * Parameters that the training step changes.
   */
  trained?: number;
  /**
   * Why there is no training step, or what it leaves out.
   */
  training_note?: string | null;
}
/**
 * A pass over the tokens, all logits, no cache.
 */
export interface Timing {
  minimum: number;
  median: number;
  repeats: number;
  original_minimum?: number | null;
  original_median?: number | null;
  /**
   * minimum / original_minimum: below 1 is faster.
   */
  ratio?: number | null;
  /**
   * median / original_median.
   */
  median_ratio?: number | null;
}
/**
 * A pass that fills the cache and gives the last logits.
 */
export interface Timing1 {
  minimum: number;
  median: number;
  repeats: number;
  original_minimum?: number | null;
  original_median?: number | null;
  /**
   * minimum / original_minimum: below 1 is faster.
   */
  ratio?: number | null;
  /**
   * median / original_median.
   */
  median_ratio?: number | null;
}
/**
 * A token behind that.
 */
export interface Timing2 {
  minimum: number;
  median: number;
  repeats: number;
  original_minimum?: number | null;
  original_median?: number | null;
  /**
   * minimum / original_minimum: below 1 is faster.
   */
  ratio?: number | null;
  /**
   * median / original_median.
   */
  median_ratio?: number | null;
}
/**
 * Seconds of one thing done several times, by turns with the original model, so that what else the machine does slows both alike.
 */
export interface Timing3 {
  minimum: number;
  median: number;
  repeats: number;
  original_minimum?: number | null;
  original_median?: number | null;
  /**
   * minimum / original_minimum: below 1 is faster.
   */
  ratio?: number | null;
  /**
   * median / original_median.
   */
  median_ratio?: number | null;
}
/**
 * What a benchmark has before it adds to it, with what the file of an earlier run has already.
 */
export interface BenchmarkEvent {
  /**
   * 1, 2, 3 … without gaps, across resumes.
   */
  seq: number;
  time: string;
  type: 'benchmark';
  benchmark: Benchmark;
}
export interface BenchmarkInput {
  /**
   * Models by name or folder, as bondwise_list_models gives them; the original among them, to compare with.
   *
   * @minItems 1
   */
  models: [string, ...string[]];
  /**
   * Of the LM Evaluation Harness: hellaswag, arc_easy. Empty: none, only perplexity, text, speed and size.
   */
  tasks?: string[];
  /**
   * Items of each task. 100 leave a standard error of up to 5 points; more take longer in proportion.
   */
  limit?: number;
  /**
   * Time forward pass, prefill and decode.
   */
  speed?: boolean;
}
/**
 * A figure of a model is new: all that is known of it. Takes the place of what was said of the same path before.
 */
export interface BenchmarkModelEvent {
  /**
   * 1, 2, 3 … without gaps, across resumes.
   */
  seq: number;
  time: string;
  type: 'benchmark-model';
  model: BenchmarkModel;
  /**
   * Those of the whole report now.
   */
  remarks?: string[];
}
/**
 * What several models are measured by.
 */
export interface BenchmarkOptions {
  /**
   * Model folders.
   *
   * @minItems 1
   */
  models: [string, ...string[]];
  /**
   * What the others are compared with; null: the one that is not compressed.
   */
  original?: string | null;
  /**
   * Of the LM Evaluation Harness: tasks, groups, tags; default: the paper's.
   */
  tasks?: string[];
  /**
   * Items of each task, chosen by the seed; of a group shared among its tasks. Null: all.
   */
  limit?: number | null;
  /**
   * Solved examples before each item; null: as each task says.
   */
  shots?: number | null;
  /**
   * Put the model's chat template around each item and prompt.
   */
  chat?: boolean;
  /**
   * Items at a time; null: 1 on a CPU, 8 elsewhere.
   */
  batch?: number | null;
  /**
   * A folder with data sets under their hub ids, which are read from there alone; null: the hub.
   */
  datasets?: string | null;
  perplexity?: EvaluateOptions | null;
  /**
   * What the models continue.
   */
  prompts?: string[];
  /**
   * Tokens that they continue them by.
   */
  sample_tokens?: number;
  /**
   * Forward, prefill and decode times.
   */
  speed?: boolean;
  /**
   * The time of a training step, with `speed`.
   */
  training?: boolean;
  /**
   * Load time and memory.
   */
  footprint?: boolean;
  /**
   * Timings of each model, by turns with the original.
   */
  repeats?: number;
  /**
   * Tokens of a timed pass.
   */
  length?: number;
  /**
   * Tokens of a timed continuation.
   */
  decode_tokens?: number;
  /**
   * The file NAME.benchmark.json. One that is there is added to.
   */
  output: string;
}
/**
 * How a model is measured: perplexity on held-out text, speed, and what it writes after a prompt.
 */
export interface EvaluateOptions {
  /**
   * A .txt or .jsonl file, a hub data set id, or `builtin`.
   */
  data?: string;
  /**
   * Tokens in a sequence.
   */
  length?: number;
  /**
   * More make the perplexity surer and take longer.
   */
  sequences?: number;
  /**
   * What both models continue.
   */
  prompt?: string;
  /**
   * Tokens that they continue it by.
   */
  sample_tokens?: number;
}
export interface BenchmarkRequest {
  version?: 1;
  /**
   * ISO 8601, UTC.
   */
  created: string;
  /**
   * What a person reads in the Runs view.
   */
  title: string;
  /**
   * `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
   */
  device?: string;
  seed?: number;
  /**
   * The user allowed the model folders' own Python code, as `code` has it.
   */
  allow_code?: boolean;
  /**
   * What was allowed: SHA-256 in hex of the Python files, by folder, as `trust.code_hash`. Other code is not run.
   */
  code?: {
    [k: string]: string;
  };
  /**
   * How many torchrun starts on this machine; 1: without torchrun.
   */
  processes?: number;
  /**
   * A run directory: this run waits until that one is done.
   */
  after?: string | null;
  kind: 'benchmark';
  options: BenchmarkOptions;
}
export interface BenchmarkResult {
  kind: 'benchmark';
  output: string;
  /**
   * All that the report has now.
   */
  models: BenchmarkModel[];
  /**
   * `weights` of the model that the others are compared with.
   */
  original: string | null;
  /**
   * Figures that this run added: tasks, perplexities, speeds and the like.
   */
  measured: number;
  seconds: number;
}
export interface BlockInfo {
  index: number;
  name: string;
  layers: LayerInfo[];
}
export interface LayerInfo {
  /**
   * Module path, such as model.layers.3.mlp.down_proj.
   */
  name: string;
  group: 'attention' | 'mlp' | 'other';
  /**
   * [out, in]; [experts, out, in] for fused experts.
   */
  shape: number[];
  dtype: string;
  parameters: number;
  bytes: number;
  state: 'dense' | 'mpo' | 'quantized';
  bond_dims?: number[] | null;
  scheme?: string | null;
}
/**
 * What the planner fills `tensorize` from.
 */
export interface Budget {
  /**
   * NAME.sensitivity.json; relative to the plan's folder.
   */
  profile: string;
  /**
   * `60%` of the model's parameters, `2GB` on disk, or `perplexity<30`.
   */
  target: string;
  /**
   * Layers that stay dense: names, globs or `re:` patterns.
   */
  exclude?: string[];
  /**
   * No layer keeps less than this part of its parameters.
   */
  floor?: number;
  /**
   * A layer that would keep more than this part stays dense.
   */
  ceiling?: number;
  /**
   * How the cores are found: from the weight alone (`plain`), weighted by the layer's inputs on a calibration text (`input`), or by its inputs and the loss gradients at its outputs (`fisher`), or so in the order of the model, each fitted to what the compressed layers before it hand on (`sequential`).
   */
  method?: 'plain' | 'input' | 'fisher' | 'sequential';
}
/**
 * The text that the methods `input` and `fisher` learn from.
 */
export interface CalibrationOptions {
  /**
   * A .txt or .jsonl file, a hub data set id, or `builtin`, whose calibration part is used; or `self`: text that the model writes itself.
   */
  data?: string;
  /**
   * More texts, whose sequences come by turns with those of `data`, which has the weight 1.
   */
  also?: HealData[];
  /**
   * Tokens in a sequence.
   */
  length?: number;
  /**
   * More make the result better, for other texts above all, and take longer.
   */
  sequences?: number;
}
/**
 * One source of text, and its share among several.
 */
export interface HealData {
  /**
   * A .txt or .jsonl file, a hub data set id, or `builtin`; its calibration part is used.
   */
  data: string;
  /**
   * Of the tokens, beside those of the other sources.
   */
  weight?: number;
}
/**
 * One layer at one size, measured: all else is the original model.
 */
export interface Cell {
  layer: string;
  /**
   * The largest bond dimension.
   */
  chi: number;
  bond_dims: number[];
  keep: number;
  parameters: number;
  /**
   * By metric. `loss` is the mean loss in nats per token, from which `perplexity` is exp; a task goes by `task:NAME`.
   */
  figures: {
    [k: string]: Figure;
  };
  sequences: number;
  /**
   * It was measured to, as in the request; 0: on all sequences.
   */
  precision?: number;
  /**
   * Variance over its sequences of what was sampled of the metric, as a part of its squared size.
   */
  spread?: number | null;
  seconds: number;
}
export interface Figure {
  value: number;
  /**
   * Standard error of the difference to the baseline, over sequences or items.
   */
  error: number;
}
/**
 * A cell is done; one of the same layer and bond dimension that came before is replaced, metric by metric.
 */
export interface CellEvent {
  /**
   * 1, 2, 3 … without gaps, across resumes.
   */
  seq: number;
  time: string;
  type: 'cell';
  cell: Cell;
}
export interface ChatAnswer {
  /**
   * Written so far.
   */
  tokens?: number;
  /**
   * Of all tokens but the first.
   */
  seconds?: number;
  /**
   * Reading the prompt, the first token included.
   */
  first_seconds?: number;
  text?: string;
  state?: 'waiting' | 'writing' | 'end' | 'length' | 'stopped' | 'failed';
  prompt_tokens?: number | null;
  problem?: string | null;
}
export interface ChatMessage {
  role: 'system' | 'user' | 'assistant';
  content: string;
}
/**
 * A model that is in memory.
 */
export interface ChatModel {
  model: string;
  /**
   * Where it is: cpu, cuda:0, mps.
   */
  device: string;
  dtype: string;
  /**
   * Bytes of its weights as they are held, not of what a conversation adds.
   */
  memory: number;
  /**
   * Its tokenizer has a chat template; without one it goes on with the text as it stands.
   */
  template: boolean;
  /**
   * Most tokens that it takes; null where its config does not say.
   */
  positions?: number | null;
  /**
   * That loading took; of a model that was there already, that it once took.
   */
  seconds: number;
}
export interface ChatReply {
  /**
   * Written so far.
   */
  tokens?: number;
  /**
   * Of all tokens but the first.
   */
  seconds?: number;
  /**
   * Reading the prompt, the first token included.
   */
  first_seconds?: number;
  text: string;
  prompt_tokens: number;
  /**
   * length: the most tokens asked for, or that it takes.
   */
  reason: 'end' | 'length' | 'stopped';
}
/**
 * `chat/generate` → `ChatReply`, with a `chat/token` notification a token meanwhile. `$/cancelRequest` stops it: the reply comes at
 * once, and holds what was written until then.
 */
export interface ChatRequest {
  /**
   * The folder, absolute.
   */
  model: string;
  device?: string;
  /**
   * The hash of the folder's own Python code, which the user allows; null: none may run.
   */
  code?: string | null;
  /**
   * Of the caller's choice; what is told of this request names it.
   */
  turn: string;
  /**
   * @minItems 1
   */
  messages: [ChatMessage, ...ChatMessage[]];
  /**
   * 0: always the likeliest token.
   */
  temperature?: number;
  seed?: number;
  max_tokens?: number;
}
/**
 * How answers are made; the same for all models of a panel.
 */
export interface ChatSettings {
  system?: string;
  temperature?: number;
  seed?: number;
  max_tokens?: number;
}
/**
 * A model as a chat panel shows it.
 */
export interface ChatSide {
  folder: string;
  name: string;
  /**
   * Of the folder.
   */
  bytes: number;
  /**
   * away: not in memory.
   */
  state: 'away' | 'loading' | 'ready' | 'failed';
  facts?: ChatModel | null;
  /**
   * Why it could not be loaded.
   */
  problem?: string | null;
}
/**
 * `chat/token`
 */
export interface ChatToken {
  /**
   * Written so far.
   */
  tokens?: number;
  /**
   * Of all tokens but the first.
   */
  seconds?: number;
  /**
   * Reading the prompt, the first token included.
   */
  first_seconds?: number;
  turn: string;
  /**
   * What comes behind the text so far; may be empty within a character of several tokens.
   */
  text: string;
}
export interface ChatTurn {
  prompt: string;
  /**
   * One for each model, in their order.
   */
  answers: ChatAnswer[];
}
/**
 * A chat panel: what the host holds and the page draws.
 */
export interface ChatView {
  models: ChatSide[];
  turns?: ChatTurn[];
  /**
   * What happened to the engine's process, in a sentence.
   */
  note?: string | null;
}
export interface CompareData {
  original: CompareSide;
  compressed: CompareSide;
  /**
   * Where the folder was healed; `compressed` is what it was before that.
   */
  healed?: CompareSide | null;
  /**
   * The last one.
   */
  healing?: HealResult | null;
  predicted?: Predicted | null;
  layers: LayerFigures[];
}
export interface CompareSide {
  name: string;
  path: string;
  parameters: number;
  bytes: number;
  evaluation: Evaluation | null;
}
/**
 * What one model scored. All on the same text, so two of them compare.
 */
export interface Evaluation {
  data: string;
  perplexity: number;
  /**
   * Of the perplexity, over sequences.
   */
  standard_error: number;
  /**
   * Predicted tokens the perplexity is the mean over.
   */
  tokens: number;
  /**
   * Forward pass over full sequences, the fastest of them.
   */
  tokens_per_second: number;
  /**
   * How much longer the median pass took than the fastest, as a part of that.
   */
  speed_noise?: number;
  prompt: string;
  /**
   * Greedy continuation of the prompt.
   */
  sample: string;
  kl?: number | null;
  agreement?: number | null;
}
/**
 * Losses are cross entropies on the validation sequences, nats per token.
 */
export interface HealResult {
  kind: 'heal';
  output: string;
  /**
   * What ended the training.
   */
  stopped: 'budget' | 'plateau' | 'diverged' | 'asked';
  /**
   * The original's; null without distillation.
   */
  teacher_loss?: number | null;
  start_loss: number;
  best_loss: number;
  /**
   * The step whose cores were written; 0: no step was better than the start.
   */
  best_step: number;
  steps: number;
  tokens: number;
  trained: number;
  parameters: number;
  original?: Evaluation | null;
  compressed?: Evaluation | null;
  healed?: Evaluation | null;
  /**
   * Largest difference of log-probabilities after reload, against the trained model.
   */
  logits_difference: number;
  /**
   * Of the process that ended the run.
   */
  seconds: number;
}
/**
 * What the planner expects of the whole model.
 */
export interface Predicted {
  /**
   * Of the whole model.
   */
  parameters: number;
  /**
   * Of the whole model.
   */
  bytes: number;
  /**
   * Rise of the mean loss, nats per token.
   */
  loss: number;
  /**
   * Standard error of that.
   */
  loss_error: number;
  perplexity?: number | null;
  perplexity_low?: number | null;
  perplexity_high?: number | null;
}
/**
 * One tensorized layer.
 */
export interface LayerFigures {
  name: string;
  method?: 'plain' | 'input' | 'fisher' | 'sequential';
  out_modes: number[];
  in_modes: number[];
  /**
   * The interior bonds: one fewer than sites.
   */
  bond_dims: number[];
  parameters: number;
  original_parameters: number;
  bytes: number;
  original_bytes: number;
  /**
   * parameters / original_parameters
   */
  keep: number;
  /**
   * ‖W − Ŵ‖_F / ‖W‖_F
   */
  relative_error: number;
  /**
   * With method fisher: ½ tr(G ΔW S ΔWᵀ), the predicted rise of the model's loss, nats per token.
   */
  loss?: number | null;
  /**
   * With a calibrated method: what it minimised, on other text like the calibration text, as a multiple of what it is on that; estimated from two halves that share no text.
   */
  held_out?: number | null;
  /**
   * Per token, through the cores.
   */
  multiply_adds: number;
  original_multiply_adds: number;
  seconds: number;
}
/**
 * What is predicted of one layer, from one decomposition, at ascending bond dimensions; equally long lists.
 *
 * The three losses are what the model's loss will rise by, in nats per token, when this layer alone is truncated by the method of that
 * name: second order, ½ tr(G ΔW S ΔWᵀ), corrected along the singular directions (`bondwise.spectral`).
 */
export interface Curve {
  layer: string;
  chi: number[];
  parameters: number[];
  /**
   * ‖W − Ŵ‖_F / ‖W‖_F of the plain truncation.
   */
  error: number[];
  plain: number[];
  input: number[];
  fisher: number[];
}
export interface CurveEvent {
  /**
   * 1, 2, 3 … without gaps, across resumes.
   */
  seq: number;
  time: string;
  type: 'curve';
  curve: Curve;
}
export interface DeviceInfo {
  /**
   * `cpu`, `cuda:N` or `mps`.
   */
  device: string;
  name: string;
  /**
   * Free bytes.
   */
  memory: number;
  memory_total: number;
}
/**
 * `doctor --json`.
 */
export interface Doctor {
  engine: string;
  /**
   * The interpreter.
   */
  python: string;
  python_version: string;
  torch: string | null;
  transformers: string | null;
  /**
   * The device a run with `auto` would use.
   */
  device: string;
  device_name: string;
  /**
   * Free bytes on that device.
   */
  memory: number;
  memory_total: number;
  host_memory: number;
  /**
   * Processor cores that this process may use.
   */
  cores?: number;
  /**
   * All GPUs; the CPU where there is none.
   */
  devices?: DeviceInfo[];
  /**
   * Free bytes where the current folder lies.
   */
  disk: number;
  problems: Problem[];
}
export interface Problem {
  message: string;
  remedy: string;
}
/**
 * The last event of a process that ended by itself.
 */
export interface EndedEvent {
  /**
   * 1, 2, 3 … without gaps, across resumes.
   */
  seq: number;
  time: string;
  type: 'ended';
  state: 'cancelled' | 'failed' | 'done';
  error?: ErrorInfo | null;
}
/**
 * A failure a person can act on.
 */
export interface ErrorInfo {
  /**
   * What failed, with the file or layer and the value.
   */
  message: string;
  remedy?: string | null;
  detail?: string | null;
}
/**
 * What the run will need, checked before the work starts.
 */
export interface EstimateEvent {
  /**
   * 1, 2, 3 … without gaps, across resumes.
   */
  seq: number;
  time: string;
  type: 'estimate';
  layers: number;
  parameters: number;
  original_parameters: number;
  /**
   * Peak bytes on the device that computes.
   */
  memory: number;
  memory_available: number;
  disk: number;
  disk_available: number;
}
export interface EvaluationEvent {
  /**
   * 1, 2, 3 … without gaps, across resumes.
   */
  seq: number;
  time: string;
  type: 'evaluation';
  role: 'original' | 'compressed' | 'healed' | 'quantized';
  evaluation: Evaluation;
}
/**
 * One budget on the exchange curve and what the planner would do with it.
 */
export interface ExchangePoint {
  parameters: number;
  bytes: number;
  loss: number;
  loss_error: number;
  perplexity?: number | null;
}
export interface ExportOptions {
  /**
   * Contract every MPO to a dense weight: the base architecture, at its full size.
   */
  dense?: boolean;
  /**
   * The folder to make. It appears only when it is whole.
   */
  output: string;
}
export interface ExportRequest {
  version?: 1;
  /**
   * ISO 8601, UTC.
   */
  created: string;
  /**
   * What a person reads in the Runs view.
   */
  title: string;
  /**
   * `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
   */
  device?: string;
  seed?: number;
  /**
   * The user allowed the model folders' own Python code, as `code` has it.
   */
  allow_code?: boolean;
  /**
   * What was allowed: SHA-256 in hex of the Python files, by folder, as `trust.code_hash`. Other code is not run.
   */
  code?: {
    [k: string]: string;
  };
  /**
   * How many torchrun starts on this machine; 1: without torchrun.
   */
  processes?: number;
  /**
   * A run directory: this run waits until that one is done.
   */
  after?: string | null;
  kind: 'export';
  model: string;
  options: ExportOptions;
}
export interface ExportResult {
  kind: 'export';
  output: string;
  /**
   * Class of the base model, such as LlamaForCausalLM.
   */
  architecture: string;
  /**
   * That were contracted.
   */
  layers: number;
  /**
   * Weights, of layers and cores, that were stored in few bits.
   */
  dequantized?: number;
  parameters: number;
  bytes: number;
  compressed_parameters: number;
  compressed_bytes: number;
  /**
   * Largest difference of log-probabilities to the compressed model, after reload.
   */
  logits_difference: number;
  /**
   * It loads in transformers without trust_remote_code.
   */
  plain: boolean;
  seconds: number;
}
/**
 * What the journal of a healing says of its training, thinned: of a long one each step event is the mean of several.
 */
export interface HealHistory {
  plan?: HealPlanEvent | null;
  /**
   * Steps that one of `steps` stands for.
   */
  width?: number;
  steps?: HealStepEvent[];
  validations?: HealValidationEvent[];
}
/**
 * Before the first step of a healing, in every process of the run alike.
 */
export interface HealPlanEvent {
  /**
   * 1, 2, 3 … without gaps, across resumes.
   */
  seq: number;
  time: string;
  type: 'heal-plan';
  plan: HealPlan;
  prompt: string;
  /**
   * The original's, on the validation sequences; null without distillation.
   */
  teacher_loss?: number | null;
  teacher_sample?: string;
}
/**
 * What does not change any more once the training has begun: a resumed run follows the same curve.
 */
export interface HealPlan {
  steps: number;
  warmup_steps: number;
  /**
   * Steps between two validations.
   */
  validate_every: number;
  tokens_per_step: number;
  /**
   * Parameters that train.
   */
  trained: number;
  /**
   * Of the whole model.
   */
  parameters: number;
  seconds_per_step?: number | null;
}
/**
 * Means over the steps since the event before, of which there are fewer a minute the longer a run goes on. One of the same or a later
 * step that came before was said by a process that was killed: this one takes its place.
 */
export interface HealStepEvent {
  /**
   * 1, 2, 3 … without gaps, across resumes.
   */
  seq: number;
  time: string;
  type: 'heal-step';
  /**
   * The last of them, from 1.
   */
  step: number;
  /**
   * What is trained on: the mix of KL and cross entropy, nats per token.
   */
  loss: number;
  cross_entropy: number;
  /**
   * Norm of the gradient before it is shortened.
   */
  gradient: number;
  learning_rate: number;
  tokens_per_second: number;
  /**
   * Bytes by device, or by rank: the most on a GPU so far, of the process on a CPU.
   */
  memory: {
    [k: string]: number;
  };
}
/**
 * Takes the place of one of the same step; that of step 0 is of the model before healing.
 */
export interface HealValidationEvent {
  /**
   * 1, 2, 3 … without gaps, across resumes.
   */
  seq: number;
  time: string;
  type: 'heal-validation';
  step: number;
  /**
   * Cross entropy, nats per token.
   */
  loss: number;
  /**
   * No validation before was better.
   */
  best: boolean;
  sample: string;
}
export interface HealInput {
  /**
   * A compressed model by its name or folder, as bondwise_list_models gives them.
   */
  model: string;
  /**
   * How long to train.
   */
  minutes?: number;
  /**
   * Of the new model's folder, beside the model. Empty: as proposed.
   */
  name?: string;
  /**
   * Measure perplexity, speed and sample text afterwards.
   */
  measure?: boolean;
}
export interface HealOptions {
  /**
   * What to train on.
   *
   * @minItems 1
   */
  data?: [HealData, ...HealData[]];
  /**
   * Tokens in a sequence.
   */
  length?: number;
  /**
   * Sequences in a step.
   */
  batch?: number;
  minutes?: number | null;
  tokens?: number | null;
  epochs?: number | null;
  /**
   * At its highest, behind the warm-up.
   */
  learning_rate?: number;
  /**
   * Share of the steps in which the learning rate rises.
   */
  warmup?: number;
  /**
   * Largest norm of the gradient of a step; a longer one is shortened to it.
   */
  clip?: number;
  /**
   * Of AdamW.
   */
  weight_decay?: number;
  /**
   * Share of the loss that is KL(original ‖ model); the rest is cross entropy.
   */
  distill?: number;
  /**
   * Of both distributions in that KL.
   */
  temperature?: number;
  teacher?: string | null;
  /**
   * Where the original computes, as `device`; null: where the model does. Of one process.
   */
  teacher_device?: string | null;
  /**
   * Learn from so many of the original's likeliest next tokens, all others as one; they are kept on disk for other runs. Null: from all of them.
   */
  teacher_top?: number | null;
  /**
   * What trains besides the cores: `norms`, layers by name or glob, or `re:` patterns.
   */
  train?: string[];
  /**
   * Rank of the two thin matrices of 16 bits that each layer in packed bits gets to train, where it has none. Null: none get any.
   */
  corrections?: number | null;
  /**
   * Compute activations again in the backward pass: less memory, more time.
   */
  recompute?: boolean;
  /**
   * Of the data's evaluation part.
   */
  validation_sequences?: number;
  /**
   * How often in the run the model is validated, at most; evenly spaced in steps.
   */
  validations?: number;
  patience?: number | null;
  /**
   * Between two resume points.
   */
  save_minutes?: number;
  /**
   * Resume points that stay.
   */
  keep?: number;
  /**
   * What the models continue at each validation.
   */
  prompt?: string;
  /**
   * Tokens that they continue it by.
   */
  sample_tokens?: number;
  /**
   * The folder to make. It appears only when it is whole.
   */
  output: string;
  evaluate?: EvaluateOptions | null;
}
export interface HealRequest {
  version?: 1;
  /**
   * ISO 8601, UTC.
   */
  created: string;
  /**
   * What a person reads in the Runs view.
   */
  title: string;
  /**
   * `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
   */
  device?: string;
  seed?: number;
  /**
   * The user allowed the model folders' own Python code, as `code` has it.
   */
  allow_code?: boolean;
  /**
   * What was allowed: SHA-256 in hex of the Python files, by folder, as `trust.code_hash`. Other code is not run.
   */
  code?: {
    [k: string]: string;
  };
  /**
   * How many torchrun starts on this machine; 1: without torchrun.
   */
  processes?: number;
  /**
   * A run directory: this run waits until that one is done.
   */
  after?: string | null;
  kind: 'heal';
  model: string;
  options: HealOptions;
}
/**
 * One healing in the history of a compressed folder (`bondwise.json`).
 */
export interface Healing {
  engine: string;
  created: string;
  /**
   * The options of the run.
   */
  request: {
    [k: string]: unknown;
  };
  result: HealResult;
}
/**
 * The whole report; what the view shows from then on.
 */
export interface HostBenchmark {
  type: 'benchmark';
  /**
   * Of the file, without its ending.
   */
  name: string;
  benchmark: Benchmark;
  /**
   * What is wrong with the file or its models, in sentences.
   */
  notes?: string[];
}
/**
 * What has come since: gathered, so that a fast run does not flood the view.
 */
export interface HostCells {
  type: 'cells';
  curves?: Curve[];
  cells?: Cell[];
  baseline?: {
    [k: string]: number;
  } | null;
}
/**
 * The chat of the panel as it stands now.
 */
export interface HostChat {
  type: 'chat';
  chat: ChatView;
}
/**
 * A token of the last turn's answer by the model with that number.
 */
export interface HostChatToken {
  type: 'chatToken';
  model: number;
  token: ChatToken;
}
export interface HostCompare {
  type: 'compare';
  data: CompareData;
}
/**
 * How the tensors of two models differ, as far as it is computed.
 */
export interface HostDiff {
  type: 'diff';
  model: MapChoice;
  other: MapChoice;
  state: 'waiting' | 'computing' | 'done' | 'cancelled' | 'failed';
  /**
   * What has come since; all of it where `whole`.
   */
  added?: TensorChange[];
  /**
   * What was told before is forgotten.
   */
  whole?: boolean;
  /**
   * Bytes of both models that were read.
   */
  done?: number;
  total?: number;
  /**
   * Of all together, when it is done.
   */
  relative?: number | null;
  problem?: string | null;
}
/**
 * A model that can be shown beside.
 */
export interface MapChoice {
  name: string;
  path: string;
  /**
   * Where it is, or how it is related.
   */
  hint: string;
}
/**
 * One tensor of two models, or the weight of a layer that one of them stores otherwise: as cores, or in few bits.
 */
export interface TensorChange {
  name: string;
  /**
   * `shape`: other shapes; `unread`: there in both, but what it stands for is not known.
   */
  found: 'equal' | 'changed' | 'shape' | 'unread' | 'only-model' | 'only-other';
  /**
   * In the model; null where it has none.
   */
  shape: number[] | null;
  other_shape: number[] | null;
  /**
   * How the model stores it: `BF16`, `cores, χ 64`, `nf4`.
   */
  stored: string | null;
  other_stored: string | null;
  /**
   * Numbers that were, or would be, compared.
   */
  parameters: number;
  /**
   * ‖other − model‖_F / ‖model‖_F; null where it was not computed, or the model's is 0.
   */
  relative?: number | null;
  /**
   * Largest absolute difference.
   */
  largest?: number | null;
  /**
   * Places where either is NaN or infinite: they are left out.
   */
  not_finite?: number;
  /**
   * Why it was not compared.
   */
  problem?: string | null;
}
/**
 * What is new in the training: points to add, or all of them.
 */
export interface HostHeal {
  type: 'heal';
  history: HealHistory;
  /**
   * What was told before is forgotten.
   */
  whole?: boolean;
}
/**
 * What the model map shows from then on.
 */
export interface HostMap {
  type: 'map';
  model: MapModel;
  /**
   * The second model.
   */
  beside?: MapModel | null;
  /**
   * Models that can be shown beside, related ones first.
   */
  choices?: MapChoice[];
  /**
   * Why there is no second model though one was chosen.
   */
  problem?: string | null;
}
export interface MapModel {
  name: string;
  path: string;
  parameters: number;
  bytes: number;
  /**
   * Name of the model that it was made from.
   */
  base?: string | null;
  base_path?: string | null;
  healed?: boolean;
  /**
   * Name of the file that tells the sensitivities.
   */
  profile?: string | null;
  layers: MapLayer[];
  outside: MapOutside[];
}
/**
 * A layer as the model map draws it.
 */
export interface MapLayer {
  name: string;
  block: number;
  /**
   * Its path in the block: layers of different blocks with the same one stand below each other.
   */
  column: string;
  group: 'attention' | 'mlp' | 'other';
  shape: number[];
  dtype: string;
  /**
   * Stored; of a quantized weight its elements.
   */
  parameters: number;
  /**
   * Of the dense layer that it is or stands for.
   */
  original_parameters: number;
  bytes: number;
  state: 'dense' | 'mpo' | 'quantized';
  /**
   * Where it, or a core of it, is quantized.
   */
  scheme?: string | null;
  bond_dims?: number[];
  sensitivity?: MapSensitivity | null;
  /**
   * In this order; null where nothing tells.
   */
  changed?: ('tensorized' | 'healed' | 'quantized')[] | null;
  /**
   * ‖W − Ŵ‖_F / ‖W‖_F against the original's layer, as the last of `changed` left it; null: not known.
   */
  change?: number | null;
  /**
   * The same after the first of `changed`, where later ones changed it.
   */
  change_before?: number | null;
}
/**
 * What the newest profile of the model says of a layer at the size at which layers are compared.
 */
export interface MapSensitivity {
  /**
   * Of the mean loss, nats per token.
   */
  rise: number;
  /**
   * Standard error of that; 0 where it is predicted.
   */
  error?: number;
  /**
   * Part of the parameters that was kept.
   */
  keep: number;
  measured: boolean;
}
/**
 * Tensors outside the layers.
 */
export interface MapOutside {
  name: 'embedding' | 'norm' | 'head' | 'other' | 'blocks';
  parameters: number;
  bytes: number;
  tensors: number;
}
export interface HostReply {
  type: 'reply';
  id: number;
  error?: string | null;
}
/**
 * The whole profile; what the view shows from then on.
 */
export interface HostSensitivity {
  type: 'sensitivity';
  profile: Sensitivity;
  /**
   * What is wrong with the file or its model, in sentences.
   */
  notes?: string[];
}
/**
 * `NAME.sensitivity.json`: what happens to a model when one layer is compressed, for each layer and size.
 */
export interface Sensitivity {
  version?: 1;
  engine: string;
  created: string;
  model: BaseModelRef;
  sites: number | 'low-rank';
  method?: 'plain';
  data: string;
  /**
   * SHA-256 of the token ids of all sequences: equal only for the same text.
   */
  text: string;
  length: number;
  sequences: number;
  seed: number;
  /**
   * The one that was asked for last, and is shown first.
   */
  metric: string;
  /**
   * What was asked: fractions to keep below or at 1, or bond dimensions.
   */
  sizes: number[];
  sizes_are: 'keep' | 'chi';
  baseline?: {
    [k: string]: number;
  };
  layers: ProfileLayer[];
  curves?: Curve[];
  cells?: Cell[];
  correlation?: number | null;
  /**
   * All that was asked for is there.
   */
  complete?: boolean;
}
/**
 * A layer that the profile covers: one place of the heatmap.
 */
export interface ProfileLayer {
  name: string;
  block: number;
  /**
   * The name inside the block, such as mlp.down_proj: equal for the same layer of each block.
   */
  column: string;
  group: 'attention' | 'mlp' | 'other';
  /**
   * [out, in]
   */
  shape: number[];
  /**
   * Of the dense weight.
   */
  parameters: number;
  bytes: number;
  out_modes: number[];
  in_modes: number[];
}
/**
 * The run that is filling this profile or report; null when none is.
 */
export interface HostProfileRun {
  type: 'profileRun';
  status: RunStatus | null;
}
/**
 * `status.json`: the latest state, replaced by rename.
 */
export interface RunStatus {
  version?: 1;
  state: 'queued' | 'running' | 'cancelling' | 'cancelled' | 'failed' | 'interrupted' | 'done';
  /**
   * What is being done, in words.
   */
  phase?: string;
  progress?: Progress | null;
  process?: ProcessIdentity | null;
  device?: string | null;
  updated: string;
  error?: ErrorInfo | null;
}
export interface Progress {
  done: number;
  total: number;
  unit: string;
  rate?: number | null;
  eta?: number | null;
}
/**
 * A process id alone can be used again by another process; with its start it cannot.
 */
export interface ProcessIdentity {
  pid: number;
  /**
   * `linux:<boot id>:<field 22 of /proc/pid/stat>`, or elsewhere `ps:<output of ps -o lstart= -p pid>`.
   */
  started: string;
  host: string;
}
/**
 * The layers that are selected in the tree, or in another view of the same model.
 */
export interface HostSelection {
  type: 'selection';
  layers: string[];
  /**
   * Of their model, where the view shows several.
   */
  folder?: string | null;
}
/**
 * The plan that is laid over the heatmap; null takes it away.
 */
export interface HostPlan {
  type: 'plan';
  name: string | null;
  /**
   * Part kept of each layer that its rules compress.
   */
  layers: {
    [k: string]: number;
  } | null;
  /**
   * Null while it is not known, or no longer what the rules say.
   */
  plan: PlanResult | null;
}
/**
 * `plan MODEL --json`.
 */
export interface PlanResult {
  /**
   * The plan file; empty with --dry-run.
   */
  output: string;
  /**
   * The patterns of the layers that stay dense: what was asked, or the default.
   */
  exclude?: string[];
  parameters: number;
  original_parameters: number;
  bytes: number;
  original_bytes: number;
  predicted: Predicted;
  /**
   * Part kept of each layer that the plan compresses.
   */
  layers: {
    [k: string]: number;
  };
  /**
   * From the largest model to the smallest.
   */
  exchange: ExchangePoint[];
}
export interface HostTensors {
  type: 'tensors';
  file: TensorFile;
  /**
   * A tensor to choose; null leaves it to the view.
   */
  choose: string | null;
}
/**
 * A safetensors file, by its header alone.
 */
export interface TensorFile {
  name: string;
  /**
   * Of the whole file.
   */
  bytes: number;
  header_bytes: number;
  /**
   * Free text of whoever wrote the file.
   */
  metadata: {
    [k: string]: string;
  };
  tensors: TensorInfo[];
}
export interface TensorInfo {
  name: string;
  shape: number[];
  dtype: string;
  parameters: number;
  bytes: number;
}
/**
 * What was computed of a tensor, or why it could not be.
 */
export interface HostTensorFacts {
  type: 'tensorFacts';
  name: string;
  facts?: TensorFacts | null;
  spectrum?: TensorSpectrum | null;
  problem?: string | null;
}
/**
 * `tensor FILE NAME --json`. Figures are of the finite values; null where there are none.
 */
export interface TensorFacts {
  name: string;
  dtype: string;
  shape: number[];
  count: number;
  nan: number;
  infinite: number;
  zeros: number;
  minimum: number | null;
  maximum: number | null;
  mean: number | null;
  /**
   * Standard deviation.
   */
  deviation: number | null;
  /**
   * Frobenius norm.
   */
  norm: number | null;
  /**
   * Where the first bin of the histogram begins.
   */
  low: number;
  /**
   * Where the last one ends.
   */
  high: number;
  /**
   * Values in each of the equal bins.
   */
  histogram: number[];
}
/**
 * `tensor FILE NAME --spectrum --json`: of the tensor as a matrix [first axis, all others].
 */
export interface TensorSpectrum {
  name: string;
  rows: number;
  columns: number;
  /**
   * Singular values, the largest first.
   */
  values: number[];
  marks: SpectrumMark[];
}
/**
 * What low rank at that size would keep of a matrix.
 */
export interface SpectrumMark {
  /**
   * Part of the parameters.
   */
  keep: number;
  chi: number;
  parameters: number;
  /**
   * Of the best approximation of that rank, in the Frobenius norm.
   */
  relative_error: number;
}
/**
 * The run of the panel, as it stands now.
 */
export interface HostRun {
  type: 'run';
  run: RunView;
}
/**
 * A run as its panel shows it, without what its work has told.
 */
export interface RunView {
  directory: string;
  title: string;
  state: 'queued' | 'running' | 'cancelling' | 'cancelled' | 'failed' | 'interrupted' | 'done';
  status?: RunStatus | null;
  request?:
    | (
        | TensorizeRequest
        | PerplexityRequest
        | SampleModelRequest
        | ProfileRequest
        | HealRequest
        | QuantizeRequest
        | BenchmarkRequest
        | ExportRequest
      )
    | null;
  result?:
    | (
        | TensorizeResult
        | PerplexityResult
        | SampleModelResult
        | ProfileResult
        | HealResult
        | QuantizeResult
        | BenchmarkResult
        | ExportResult
      )
    | null;
  estimate?: EstimateEvent | null;
  evaluations?: {
    [k: string]: Evaluation;
  };
  warnings?: string[];
  error?: ErrorInfo | null;
  /**
   * How often a process took the run up.
   */
  starts?: number;
  device?: string | null;
  /**
   * It was asked to stop and keep the best.
   */
  stopping?: boolean;
}
export interface TensorizeRequest {
  version?: 1;
  /**
   * ISO 8601, UTC.
   */
  created: string;
  /**
   * What a person reads in the Runs view.
   */
  title: string;
  /**
   * `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
   */
  device?: string;
  seed?: number;
  /**
   * The user allowed the model folders' own Python code, as `code` has it.
   */
  allow_code?: boolean;
  /**
   * What was allowed: SHA-256 in hex of the Python files, by folder, as `trust.code_hash`. Other code is not run.
   */
  code?: {
    [k: string]: string;
  };
  /**
   * How many torchrun starts on this machine; 1: without torchrun.
   */
  processes?: number;
  /**
   * A run directory: this run waits until that one is done.
   */
  after?: string | null;
  kind: 'tensorize';
  model: string;
  options: TensorizeOptions;
}
export interface TensorizeOptions {
  /**
   * @minItems 1
   */
  tensorize: [TensorizeRule, ...TensorizeRule[]];
  calibration?: CalibrationOptions1;
  /**
   * Layers that stay dense and are fitted, with those of method `sequential`, to what reaches them: `*.down_proj`.
   */
  refit?: string[];
  /**
   * The folder to make. It appears only when it is whole.
   */
  output: string;
  evaluate?: EvaluateOptions | null;
  predicted?: Predicted1 | null;
}
/**
 * Which layers become MPOs and how. Later rules do not touch what an earlier rule matched.
 */
export interface TensorizeRule {
  /**
   * Exact layer names, globs, or `re:` patterns.
   */
  layers: string[];
  /**
   * Layers to leave out of those: names, globs or `re:` patterns.
   */
  exclude?: string[];
  chi?: number | null;
  keep?: number | null;
  error?: number | null;
  /**
   * Number of cores, 2 to 5, or `low-rank`: two thin matrices.
   */
  sites?: number | 'low-rank';
  out_modes?: number[] | null;
  in_modes?: number[] | null;
  /**
   * How the cores are found: from the weight alone (`plain`), weighted by the layer's inputs on a calibration text (`input`), or by its inputs and the loss gradients at its outputs (`fisher`), or so in the order of the model, each fitted to what the compressed layers before it hand on (`sequential`).
   */
  method?: 'plain' | 'input' | 'fisher' | 'sequential';
}
/**
 * The text that the methods `input` and `fisher` learn from.
 */
export interface CalibrationOptions1 {
  /**
   * A .txt or .jsonl file, a hub data set id, or `builtin`, whose calibration part is used; or `self`: text that the model writes itself.
   */
  data?: string;
  /**
   * More texts, whose sequences come by turns with those of `data`, which has the weight 1.
   */
  also?: HealData[];
  /**
   * Tokens in a sequence.
   */
  length?: number;
  /**
   * More make the result better, for other texts above all, and take longer.
   */
  sequences?: number;
}
/**
 * What the planner expects of the whole model.
 */
export interface Predicted1 {
  /**
   * Of the whole model.
   */
  parameters: number;
  /**
   * Of the whole model.
   */
  bytes: number;
  /**
   * Rise of the mean loss, nats per token.
   */
  loss: number;
  /**
   * Standard error of that.
   */
  loss_error: number;
  perplexity?: number | null;
  perplexity_low?: number | null;
  perplexity_high?: number | null;
}
export interface PerplexityRequest {
  version?: 1;
  /**
   * ISO 8601, UTC.
   */
  created: string;
  /**
   * What a person reads in the Runs view.
   */
  title: string;
  /**
   * `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
   */
  device?: string;
  seed?: number;
  /**
   * The user allowed the model folders' own Python code, as `code` has it.
   */
  allow_code?: boolean;
  /**
   * What was allowed: SHA-256 in hex of the Python files, by folder, as `trust.code_hash`. Other code is not run.
   */
  code?: {
    [k: string]: string;
  };
  /**
   * How many torchrun starts on this machine; 1: without torchrun.
   */
  processes?: number;
  /**
   * A run directory: this run waits until that one is done.
   */
  after?: string | null;
  kind: 'perplexity';
  model: string;
  options: PerplexityOptions;
}
export interface PerplexityOptions {
  evaluate?: EvaluateOptions1;
  reference?: string | null;
}
/**
 * How a model is measured: perplexity on held-out text, speed, and what it writes after a prompt.
 */
export interface EvaluateOptions1 {
  /**
   * A .txt or .jsonl file, a hub data set id, or `builtin`.
   */
  data?: string;
  /**
   * Tokens in a sequence.
   */
  length?: number;
  /**
   * More make the perplexity surer and take longer.
   */
  sequences?: number;
  /**
   * What both models continue.
   */
  prompt?: string;
  /**
   * Tokens that they continue it by.
   */
  sample_tokens?: number;
}
export interface SampleModelRequest {
  version?: 1;
  /**
   * ISO 8601, UTC.
   */
  created: string;
  /**
   * What a person reads in the Runs view.
   */
  title: string;
  /**
   * `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
   */
  device?: string;
  seed?: number;
  /**
   * The user allowed the model folders' own Python code, as `code` has it.
   */
  allow_code?: boolean;
  /**
   * What was allowed: SHA-256 in hex of the Python files, by folder, as `trust.code_hash`. Other code is not run.
   */
  code?: {
    [k: string]: string;
  };
  /**
   * How many torchrun starts on this machine; 1: without torchrun.
   */
  processes?: number;
  /**
   * A run directory: this run waits until that one is done.
   */
  after?: string | null;
  kind: 'sample-model';
  options: SampleModelOptions;
}
export interface SampleModelOptions {
  output: string;
}
export interface ProfileRequest {
  version?: 1;
  /**
   * ISO 8601, UTC.
   */
  created: string;
  /**
   * What a person reads in the Runs view.
   */
  title: string;
  /**
   * `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
   */
  device?: string;
  seed?: number;
  /**
   * The user allowed the model folders' own Python code, as `code` has it.
   */
  allow_code?: boolean;
  /**
   * What was allowed: SHA-256 in hex of the Python files, by folder, as `trust.code_hash`. Other code is not run.
   */
  code?: {
    [k: string]: string;
  };
  /**
   * How many torchrun starts on this machine; 1: without torchrun.
   */
  processes?: number;
  /**
   * A run directory: this run waits until that one is done.
   */
  after?: string | null;
  kind: 'profile';
  model: string;
  options: ProfileOptions;
}
/**
 * What is asked of each layer at each size: the predicted loss (`spectral`), or besides the metric of the whole model (`measured`).
 */
export interface ProfileOptions {
  mode?: 'spectral' | 'measured';
  /**
   * Exact layer names, globs, or `re:` patterns.
   *
   * @minItems 1
   */
  layers?: [string, ...string[]];
  exclude?: string[];
  /**
   * Fractions of a layer's parameters to measure at.
   */
  keep?: number[];
  /**
   * Bond dimensions to measure at; instead of keep.
   */
  chi?: number[];
  sites?: number | 'low-rank';
  /**
   * `perplexity`, `kl`, `agreement`, or `task:NAME` of the LM Evaluation Harness.
   */
  metric?: string;
  /**
   * Items of a task.
   */
  limit?: number;
  /**
   * A cell gets sequences until its standard error is below this part of its value; 0 measures all sequences.
   */
  precision?: number;
  /**
   * A .txt or .jsonl file, a hub data set id, or `builtin`; its calibration part is used.
   */
  data?: string;
  /**
   * Tokens in a sequence.
   */
  length?: number;
  /**
   * At most, for a cell.
   */
  sequences?: number;
  /**
   * The file NAME.sensitivity.json. One of the same model, data and sites is added to.
   */
  output: string;
}
export interface QuantizeRequest {
  version?: 1;
  /**
   * ISO 8601, UTC.
   */
  created: string;
  /**
   * What a person reads in the Runs view.
   */
  title: string;
  /**
   * `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
   */
  device?: string;
  seed?: number;
  /**
   * The user allowed the model folders' own Python code, as `code` has it.
   */
  allow_code?: boolean;
  /**
   * What was allowed: SHA-256 in hex of the Python files, by folder, as `trust.code_hash`. Other code is not run.
   */
  code?: {
    [k: string]: string;
  };
  /**
   * How many torchrun starts on this machine; 1: without torchrun.
   */
  processes?: number;
  /**
   * A run directory: this run waits until that one is done.
   */
  after?: string | null;
  kind: 'quantize';
  model: string;
  options: QuantizeOptions;
}
export interface QuantizeOptions {
  /**
   * Which layers get which scheme; or `budget`.
   */
  quantize?: QuantizeRule[];
  /**
   * Each layer gets the scheme that loses least under a budget, among all of them.
   */
  budget?: QuantizeBudget | null;
  calibration?: CalibrationOptions2;
  /**
   * Layers whose rounding to `compensated-N` is predicted to cost far more than the others' get 8 bits.
   */
  protect?: boolean;
  /**
   * Calibrated layers are made in their order, each for what the quantized ones before it hand on.
   */
  sequential?: boolean;
  /**
   * The folder to make. It appears only when it is whole.
   */
  output: string;
  evaluate?: EvaluateOptions | null;
  predicted?: Predicted2 | null;
}
/**
 * Which layers are stored in fewer bits and how. Later rules do not touch what an earlier rule matched.
 */
export interface QuantizeRule {
  /**
   * Exact names, globs, or `re:` patterns of layers, or of cores, such as `*.cores.*`; or the head's name.
   */
  layers: string[];
  /**
   * Layers to leave out of those: names, globs or `re:` patterns.
   */
  exclude?: string[];
  /**
   * `int8`, `nf4` and `nf4-double` of bitsandbytes, `float16`, `compensated-4`, `-3` or `-2` (bits, rounded so that what the layer does on a calibration text changes least), or `low-rank-16`, `-8` or `-4` (two thin matrices of as many bits).
   */
  scheme:
    | 'int8'
    | 'nf4'
    | 'nf4-double'
    | 'float16'
    | 'compensated-8'
    | 'compensated-4'
    | 'compensated-3'
    | 'compensated-2'
    | 'low-rank-16'
    | 'low-rank-8'
    | 'low-rank-4';
  rank?: number | null;
  /**
   * Of those two thin matrices beside `compensated-N`; those of 16 bits can be healed.
   */
  rank_bits?: 4 | 8 | 16;
}
/**
 * What the scheme of each layer is chosen for.
 */
export interface QuantizeBudget {
  /**
   * `3.5bits` for a number of these layers, `60MB` of the whole folder, or `perplexity<30`.
   */
  target: string;
  /**
   * Layers that may be quantized: names, globs or `re:` patterns.
   *
   * @minItems 1
   */
  layers?: [string, ...string[]];
  /**
   * Layers to leave out of those.
   */
  exclude?: string[];
}
/**
 * The text for `compensated-N` and `low-rank-N`.
 */
export interface CalibrationOptions2 {
  /**
   * A .txt or .jsonl file, a hub data set id, or `builtin`, whose calibration part is used; or `self`: text that the model writes itself.
   */
  data?: string;
  /**
   * More texts, whose sequences come by turns with those of `data`, which has the weight 1.
   */
  also?: HealData[];
  /**
   * Tokens in a sequence.
   */
  length?: number;
  /**
   * More make the result better, for other texts above all, and take longer.
   */
  sequences?: number;
}
/**
 * What the planner expects of the whole model.
 */
export interface Predicted2 {
  /**
   * Of the whole model.
   */
  parameters: number;
  /**
   * Of the whole model.
   */
  bytes: number;
  /**
   * Rise of the mean loss, nats per token.
   */
  loss: number;
  /**
   * Standard error of that.
   */
  loss_error: number;
  perplexity?: number | null;
  perplexity_low?: number | null;
  perplexity_high?: number | null;
}
export interface TensorizeResult {
  kind: 'tensorize';
  output: string;
  parameters: number;
  original_parameters: number;
  bytes: number;
  original_bytes: number;
  layers: LayerFigures[];
  /**
   * Layers that stayed dense and have other weights than before.
   */
  refitted?: string[];
  original?: Evaluation | null;
  compressed?: Evaluation | null;
  predicted?: Predicted3 | null;
  /**
   * Largest difference of log-probabilities after reload, against dense weights.
   */
  logits_difference: number;
  seconds: number;
}
/**
 * What the planner expects of the whole model.
 */
export interface Predicted3 {
  /**
   * Of the whole model.
   */
  parameters: number;
  /**
   * Of the whole model.
   */
  bytes: number;
  /**
   * Rise of the mean loss, nats per token.
   */
  loss: number;
  /**
   * Standard error of that.
   */
  loss_error: number;
  perplexity?: number | null;
  perplexity_low?: number | null;
  perplexity_high?: number | null;
}
export interface PerplexityResult {
  kind: 'perplexity';
  evaluation: Evaluation;
  seconds: number;
}
export interface SampleModelResult {
  kind: 'sample-model';
  output: string;
  evaluation: Evaluation;
  seconds: number;
}
export interface ProfileResult {
  kind: 'profile';
  output: string;
  /**
   * Measured cells in the file.
   */
  cells: number;
  /**
   * Predicted curves in the file.
   */
  curves: number;
  /**
   * The original model's value of each metric.
   */
  baseline: {
    [k: string]: number;
  };
  correlation?: number | null;
  seconds: number;
}
/**
 * Sizes are of the whole model; what its files take, its tensors hold, and the loaded model occupies are three things.
 */
export interface QuantizeResult {
  kind: 'quantize';
  output: string;
  /**
   * What unpacks the weights: bitsandbytes, or the folder's own modeling_mpo.py.
   */
  backend: 'bitsandbytes' | 'packed';
  /**
   * Numbers that the folder stands for.
   */
  parameters: number;
  /**
   * Of the model before any compression.
   */
  original_parameters: number;
  /**
   * Of all tensors in the files.
   */
  bytes: number;
  /**
   * The same of the folder that was quantized.
   */
  original_bytes: number;
  /**
   * Of the weight files, headers included.
   */
  file_bytes: number;
  /**
   * Of the tensors of the loaded model, in the dtype it computes in on the run's device.
   */
  memory: number;
  /**
   * 8 · bytes / original_parameters
   */
  bits_per_parameter: number;
  /**
   * Bits per number of the weights that were quantized.
   */
  layer_bits: number;
  /**
   * Of the tensors that stay as they were: embedding, head, norms and others.
   */
  unquantized_bytes: number;
  layers: QuantizedLayer[];
  original?: Evaluation | null;
  quantized?: Evaluation | null;
  predicted?: Predicted4 | null;
  /**
   * Largest difference of log-probabilities after reload, against the weights that the codes stand for.
   */
  logits_difference: number;
  seconds: number;
}
/**
 * One layer, or core of a layer, in few bits.
 */
export interface QuantizedLayer {
  name: string;
  scheme:
    | 'int8'
    | 'nf4'
    | 'nf4-double'
    | 'float16'
    | 'compensated-8'
    | 'compensated-4'
    | 'compensated-3'
    | 'compensated-2'
    | 'low-rank-16'
    | 'low-rank-8'
    | 'low-rank-4';
  /**
   * Of the matrix; 0 where there are two thin ones only.
   */
  bits: number;
  rank?: number;
  /**
   * Of the two thin matrices; 0 where there are none.
   */
  rank_bits?: number;
  /**
   * [out, in]
   */
  shape: number[];
  /**
   * Of the weight that it stands for.
   */
  parameters: number;
  /**
   * Of the tensors in its place; the bias is not among them.
   */
  bytes: number;
  original_bytes: number;
  /**
   * ‖W − Ŵ‖_F / ‖W‖_F
   */
  relative_error: number;
  /**
   * ½ tr(G ΔW S ΔWᵀ), the predicted rise of the model's loss, nats per token; null without moments.
   */
  loss?: number | null;
  /**
   * With a budget: the next larger way of this layer that was worth anything.
   */
  larger?: SchemeChoice | null;
  /**
   * With a budget: the next smaller one.
   */
  smaller?: SchemeChoice | null;
  /**
   * It got more bits than was asked, because its loss would have stood out.
   */
  protected?: boolean;
  seconds: number;
}
/**
 * One way to store a layer, and what it costs.
 */
export interface SchemeChoice {
  scheme:
    | 'int8'
    | 'nf4'
    | 'nf4-double'
    | 'float16'
    | 'compensated-8'
    | 'compensated-4'
    | 'compensated-3'
    | 'compensated-2'
    | 'low-rank-16'
    | 'low-rank-8'
    | 'low-rank-4';
  rank?: number;
  /**
   * Of the two thin matrices beside `compensated-N`.
   */
  rank_bits?: number;
  bytes: number;
  /**
   * ½ tr(G ΔW S ΔWᵀ), nats per token.
   */
  loss: number;
}
/**
 * What the planner expects of the whole model.
 */
export interface Predicted4 {
  /**
   * Of the whole model.
   */
  parameters: number;
  /**
   * Of the whole model.
   */
  bytes: number;
  /**
   * Rise of the mean loss, nats per token.
   */
  loss: number;
  /**
   * Standard error of that.
   */
  loss_error: number;
  perplexity?: number | null;
  perplexity_low?: number | null;
  perplexity_high?: number | null;
}
/**
 * `inspect MODEL --json`.
 */
export interface Inspection {
  model: string;
  architecture: string | null;
  parameters: number;
  bytes: number;
  blocks: BlockInfo[];
  /**
   * Embedding, norms, head and whatever else is not a layer of a block.
   */
  other: TensorInfo[];
}
export interface LayerEvent {
  /**
   * 1, 2, 3 … without gaps, across resumes.
   */
  seq: number;
  time: string;
  type: 'layer';
  layer: LayerFigures;
}
/**
 * `bondwise.json` in a compressed checkpoint: where it comes from and what was measured.
 */
export interface Lineage {
  version?: 1;
  engine: string;
  created: string;
  base: BaseModelRef;
  /**
   * The options of the run that tensorized it; empty where none did.
   */
  request?: {
    [k: string]: unknown;
  };
  /**
   * Of that run; null where the folder was only quantized.
   */
  result?: TensorizeResult | null;
  /**
   * What was trained afterwards, the latest last.
   */
  healing?: Healing[];
  /**
   * What was quantized, after all healing.
   */
  quantization?: Quantization | null;
}
/**
 * How a folder was quantized (`bondwise.json`).
 */
export interface Quantization {
  engine: string;
  created: string;
  source: BaseModelRef1;
  /**
   * The options of the run.
   */
  request: {
    [k: string]: unknown;
  };
  result: QuantizeResult;
}
/**
 * The folder that was quantized.
 */
export interface BaseModelRef1 {
  /**
   * Relative to the folder of the file that says it, as it was when that was made.
   */
  path: string;
  name: string;
  /**
   * SHA-256 over config.json and the header of every shard.
   */
  fingerprint: string;
}
export interface ListLayersInput {
  /**
   * A model by its name or folder, as bondwise_list_models gives them.
   */
  model: string;
  /**
   * Only these: names, globs or re: patterns. Empty: all.
   */
  layers?: string[];
}
/**
 * Nothing is asked for.
 */
export interface ListModelsInput {}
/**
 * One layer in the `mpo.layers` section of a compressed checkpoint's `config.json`.
 */
export interface MPOLayer {
  out_modes: number[];
  in_modes: number[];
  bond_dims: number[];
  /**
   * Below the product of out_modes where the weight was padded.
   */
  out_features: number;
  in_features: number;
  bias: boolean;
}
/**
 * The `mpo` key of a compressed checkpoint's `config.json`.
 */
export interface MPOSection {
  version?: 2;
  base_model_type: string;
  /**
   * Class of the original model, such as LlamaForCausalLM.
   */
  base_architecture: string;
  /**
   * The original model's classes in the folder's own Python files; null: in transformers.
   */
  base_auto_map?: {
    [k: string]: string;
  } | null;
  layers: {
    [k: string]: MPOLayer;
  };
  /**
   * Layers, and cores of layers, that are stored in few bits.
   */
  packed?: {
    [k: string]: PackedLayer;
  };
}
/**
 * One layer, or core of one, in the `mpo.packed` section: a matrix of `bits`, two thin ones of `rank_bits`, or both.
 */
export interface PackedLayer {
  out_features: number;
  in_features: number;
  bias: boolean;
  /**
   * 2, 3, 4 or 8; 0: no matrix.
   */
  bits: number;
  /**
   * The columns of the matrix are stored in another order.
   */
  ordered?: boolean;
  /**
   * 0: no thin matrices.
   */
  rank?: number;
  rank_bits?: number;
  /**
   * What made it; for people.
   */
  scheme: string;
}
export interface NamedTask {
  name: string;
  kind: 'task' | 'group' | 'tag';
}
export interface PhaseEvent {
  /**
   * 1, 2, 3 … without gaps, across resumes.
   */
  seq: number;
  time: string;
  type: 'phase';
  phase: string;
}
/**
 * `NAME.bondwise.json`: what is to be done to a model. Comments are allowed.
 */
export interface PlanFile {
  /**
   * For editors; Bondwise knows the schema by the file's name.
   */
  $schema?: string | null;
  /**
   * Of the format of this file.
   */
  version?: 1;
  /**
   * The model folder; relative to the plan's folder.
   */
  model: string;
  /**
   * The folder to make; relative to the plan's folder.
   */
  output: string;
  budget?: Budget1 | null;
  predicted?: Predicted5 | null;
  /**
   * Which layers become MPOs and how; a layer belongs to the first rule that matches.
   *
   * @minItems 1
   */
  tensorize?: [TensorizeRule, ...TensorizeRule[]];
  /**
   * In place of `tensorize`: which layers are stored in fewer bits and how; the first rule that matches counts.
   *
   * @minItems 1
   */
  quantize?: [QuantizeRule, ...QuantizeRule[]];
  calibration?: CalibrationOptions3 | null;
  refit?: string[] | null;
  heal?: PlanHeal | null;
  evaluate?: EvaluateOptions2 | null;
}
/**
 * What the planner filled `tensorize` from.
 */
export interface Budget1 {
  /**
   * NAME.sensitivity.json; relative to the plan's folder.
   */
  profile: string;
  /**
   * `60%` of the model's parameters, `2GB` on disk, or `perplexity<30`.
   */
  target: string;
  /**
   * Layers that stay dense: names, globs or `re:` patterns.
   */
  exclude?: string[];
  /**
   * No layer keeps less than this part of its parameters.
   */
  floor?: number;
  /**
   * A layer that would keep more than this part stays dense.
   */
  ceiling?: number;
  /**
   * How the cores are found: from the weight alone (`plain`), weighted by the layer's inputs on a calibration text (`input`), or by its inputs and the loss gradients at its outputs (`fisher`), or so in the order of the model, each fitted to what the compressed layers before it hand on (`sequential`).
   */
  method?: 'plain' | 'input' | 'fisher' | 'sequential';
}
/**
 * What the planner expects of the whole model.
 */
export interface Predicted5 {
  /**
   * Of the whole model.
   */
  parameters: number;
  /**
   * Of the whole model.
   */
  bytes: number;
  /**
   * Rise of the mean loss, nats per token.
   */
  loss: number;
  /**
   * Standard error of that.
   */
  loss_error: number;
  perplexity?: number | null;
  perplexity_low?: number | null;
  perplexity_high?: number | null;
}
/**
 * The text for all methods but `plain`.
 */
export interface CalibrationOptions3 {
  /**
   * A .txt or .jsonl file, a hub data set id, or `builtin`, whose calibration part is used; or `self`: text that the model writes itself.
   */
  data?: string;
  /**
   * More texts, whose sequences come by turns with those of `data`, which has the weight 1.
   */
  also?: HealData[];
  /**
   * Tokens in a sequence.
   */
  length?: number;
  /**
   * More make the result better, for other texts above all, and take longer.
   */
  sequences?: number;
}
/**
 * How the compressed model is trained; leave it out to stop there.
 */
export interface PlanHeal {
  /**
   * What to train on.
   *
   * @minItems 1
   */
  data?: [HealData, ...HealData[]];
  /**
   * Tokens in a sequence.
   */
  length?: number;
  /**
   * Sequences in a step.
   */
  batch?: number;
  minutes?: number | null;
  tokens?: number | null;
  epochs?: number | null;
  /**
   * At its highest, behind the warm-up.
   */
  learning_rate?: number;
  /**
   * Share of the steps in which the learning rate rises.
   */
  warmup?: number;
  /**
   * Largest norm of the gradient of a step; a longer one is shortened to it.
   */
  clip?: number;
  /**
   * Of AdamW.
   */
  weight_decay?: number;
  /**
   * Share of the loss that is KL(original ‖ model); the rest is cross entropy.
   */
  distill?: number;
  /**
   * Of both distributions in that KL.
   */
  temperature?: number;
  teacher?: string | null;
  /**
   * Where the original computes, as `device`; null: where the model does. Of one process.
   */
  teacher_device?: string | null;
  /**
   * Learn from so many of the original's likeliest next tokens, all others as one; they are kept on disk for other runs. Null: from all of them.
   */
  teacher_top?: number | null;
  /**
   * What trains besides the cores: `norms`, layers by name or glob, or `re:` patterns.
   */
  train?: string[];
  /**
   * Rank of the two thin matrices of 16 bits that each layer in packed bits gets to train, where it has none. Null: none get any.
   */
  corrections?: number | null;
  /**
   * Compute activations again in the backward pass: less memory, more time.
   */
  recompute?: boolean;
  /**
   * Of the data's evaluation part.
   */
  validation_sequences?: number;
  /**
   * How often in the run the model is validated, at most; evenly spaced in steps.
   */
  validations?: number;
  patience?: number | null;
  /**
   * Between two resume points.
   */
  save_minutes?: number;
  /**
   * Resume points that stay.
   */
  keep?: number;
  /**
   * What the models continue at each validation.
   */
  prompt?: string;
  /**
   * Tokens that they continue it by.
   */
  sample_tokens?: number;
  /**
   * The folder of the healed model; relative to the plan's folder. Left out: OUTPUT-healed.
   */
  output?: string | null;
}
/**
 * How a model is measured: perplexity on held-out text, speed, and what it writes after a prompt.
 */
export interface EvaluateOptions2 {
  /**
   * A .txt or .jsonl file, a hub data set id, or `builtin`.
   */
  data?: string;
  /**
   * Tokens in a sequence.
   */
  length?: number;
  /**
   * More make the perplexity surer and take longer.
   */
  sequences?: number;
  /**
   * What both models continue.
   */
  prompt?: string;
  /**
   * Tokens that they continue it by.
   */
  sample_tokens?: number;
}
export interface PlanHeal1 {
  /**
   * What to train on.
   *
   * @minItems 1
   */
  data?: [HealData, ...HealData[]];
  /**
   * Tokens in a sequence.
   */
  length?: number;
  /**
   * Sequences in a step.
   */
  batch?: number;
  minutes?: number | null;
  tokens?: number | null;
  epochs?: number | null;
  /**
   * At its highest, behind the warm-up.
   */
  learning_rate?: number;
  /**
   * Share of the steps in which the learning rate rises.
   */
  warmup?: number;
  /**
   * Largest norm of the gradient of a step; a longer one is shortened to it.
   */
  clip?: number;
  /**
   * Of AdamW.
   */
  weight_decay?: number;
  /**
   * Share of the loss that is KL(original ‖ model); the rest is cross entropy.
   */
  distill?: number;
  /**
   * Of both distributions in that KL.
   */
  temperature?: number;
  teacher?: string | null;
  /**
   * Where the original computes, as `device`; null: where the model does. Of one process.
   */
  teacher_device?: string | null;
  /**
   * Learn from so many of the original's likeliest next tokens, all others as one; they are kept on disk for other runs. Null: from all of them.
   */
  teacher_top?: number | null;
  /**
   * What trains besides the cores: `norms`, layers by name or glob, or `re:` patterns.
   */
  train?: string[];
  /**
   * Rank of the two thin matrices of 16 bits that each layer in packed bits gets to train, where it has none. Null: none get any.
   */
  corrections?: number | null;
  /**
   * Compute activations again in the backward pass: less memory, more time.
   */
  recompute?: boolean;
  /**
   * Of the data's evaluation part.
   */
  validation_sequences?: number;
  /**
   * How often in the run the model is validated, at most; evenly spaced in steps.
   */
  validations?: number;
  patience?: number | null;
  /**
   * Between two resume points.
   */
  save_minutes?: number;
  /**
   * Resume points that stay.
   */
  keep?: number;
  /**
   * What the models continue at each validation.
   */
  prompt?: string;
  /**
   * Tokens that they continue it by.
   */
  sample_tokens?: number;
  /**
   * The folder of the healed model; relative to the plan's folder. Left out: OUTPUT-healed.
   */
  output?: string | null;
}
export interface PlanInput {
  /**
   * A model by its name or folder, as bondwise_list_models gives them.
   */
  model: string;
  /**
   * Of the whole model: a share of its parameters (60%), a size on disk (200MB), or perplexity<30.
   */
  budget: string;
  /**
   * Layers that stay dense. Empty: as proposed (first block, down projections).
   */
  exclude?: string[];
  /**
   * Of the plan file, without its ending. Empty: as proposed.
   */
  name?: string;
}
/**
 * What a profile covers, before its first figure: with the curves and cells that an earlier profile of the same file has already.
 */
export interface ProfileEvent {
  /**
   * 1, 2, 3 … without gaps, across resumes.
   */
  seq: number;
  time: string;
  type: 'profile';
  profile: Sensitivity;
}
export interface ProfileInput {
  /**
   * A model by its name or folder, as bondwise_list_models gives them.
   */
  model: string;
  /**
   * Measure the whole model with one layer compressed at a time, which takes longer.
   */
  measured?: boolean;
}
export interface QuantizeInput {
  /**
   * A model by its name or folder, as bondwise_list_models gives them.
   */
  model: string;
  /**
   * For all layers alike: int8, nf4, nf4-double (seconds), compensated-4, compensated-3 or compensated-2 (minutes, from a calibration text). Or a budget under which each layer gets what loses least: bits on average such as 3.5bits, or the size of the whole folder such as 120MB.
   */
  scheme: string;
  /**
   * Only these: names, globs or re: patterns. Empty: all linear layers.
   */
  layers?: string[];
  /**
   * Of the new model's folder, beside the model. Empty: as proposed.
   */
  name?: string;
  /**
   * Measure perplexity, speed and sample text of both models afterwards.
   */
  measure?: boolean;
}
/**
 * A layer is in few bits; one of the same name that came before is replaced.
 */
export interface QuantizedEvent {
  /**
   * 1, 2, 3 … without gaps, across resumes.
   */
  seq: number;
  time: string;
  type: 'quantized';
  layer: QuantizedLayer;
}
export interface ReadProfileInput {
  /**
   * A model by its name or folder, as bondwise_list_models gives them.
   */
  model: string;
  /**
   * How many layers to name, the most sensitive first.
   */
  most?: number;
}
/**
 * A process took the run up: at the start and again at each resume.
 */
export interface StartedEvent {
  /**
   * 1, 2, 3 … without gaps, across resumes.
   */
  seq: number;
  time: string;
  type: 'started';
  engine: string;
  torch: string;
  device: string;
  resumed: boolean;
}
/**
 * The folder was loaded again and its logits compared.
 */
export interface VerifiedEvent {
  /**
   * 1, 2, 3 … without gaps, across resumes.
   */
  seq: number;
  time: string;
  type: 'verified';
  logits_difference: number;
  tolerance: number;
}
export interface WarningEvent {
  /**
   * 1, 2, 3 … without gaps, across resumes.
   */
  seq: number;
  time: string;
  type: 'warning';
  message: string;
}
export interface RunPlanInput {
  /**
   * Path of the plan file, NAME.bondwise.json.
   */
  plan: string;
}
export interface RunStatusInput {
  /**
   * A run by its id. Empty: the latest runs.
   */
  run?: string;
}
/**
 * `tasks --json`.
 */
export interface TaskList {
  tasks: NamedTask[];
}
/**
 * The last line of `diff MODEL OTHER --json`.
 */
export interface TensorDiff {
  kind: 'diff';
  model: string;
  other: string;
  /**
   * The most changed first, then what was not compared, then what is equal.
   */
  tensors: TensorChange[];
  /**
   * Of all numbers together that were compared; what is equal and in few bits was not unpacked.
   */
  relative: number | null;
  seconds: number;
}
/**
 * One line of `diff MODEL OTHER --json` for each tensor, as it is done.
 */
export interface TensorDiffStep {
  kind: 'step';
  tensor: TensorChange;
  /**
   * Bytes of both models that were read.
   */
  done: number;
  total: number;
}
export interface TensorizeInput {
  /**
   * A model by its name or folder, as bondwise_list_models gives them.
   */
  model: string;
  /**
   * Layers by exact name, glob (*.mlp.up_proj) or regular expression (re:layers\.[4-9]\..*).
   *
   * @minItems 1
   */
  layers: [string, ...string[]];
  /**
   * What a layer keeps: a share of its parameters such as 50%, or a bond dimension such as 64.
   */
  size: string;
  /**
   * fisher loses least as a rule; plain needs no calibration text and loses most.
   */
  method?: 'plain' | 'input' | 'fisher' | 'sequential';
  /**
   * Of the new model's folder, beside the model. Empty: as proposed.
   */
  name?: string;
  /**
   * Measure perplexity, speed and sample text of both models afterwards.
   */
  measure?: boolean;
}
/**
 * Webview → extension. Every request is answered once, with the same id; by an error where the panel does not serve the method.
 */
export interface WebviewRequest {
  id: number;
  method:
    | 'ready'
    | 'revealLayer'
    | 'openFolder'
    | 'selectLayers'
    | 'tensorizeLayers'
    | 'excludeLayers'
    | 'profileLayers'
    | 'planCompression'
    | 'cancelRun'
    | 'resumeRun'
    | 'finishRun'
    | 'showRun'
    | 'showLog'
    | 'showModel'
    | 'compare'
    | 'copyCommand'
    | 'saveFile'
    | 'copyText'
    | 'benchmarkModels'
    | 'tensorFacts'
    | 'tensorSpectrum'
    | 'showBeside'
    | 'showMap'
    | 'quantizeLayers'
    | 'showSensitivity'
    | 'showTensors'
    | 'compareTensors'
    | 'computeDiff'
    | 'cancelDiff'
    | 'sendChat'
    | 'stopChat'
    | 'clearChat'
    | 'loadChat';
  argument?: string | null;
  name?: string | null;
  layers?: string[] | null;
  /**
   * How the answers to sendChat are made.
   */
  chat?: ChatSettings | null;
}
