// Made by `npm run generate` from engine/bondwise/schema/. Edit that file, not this one.
import type { RunRequest, RunStatus, RunEvent, RunResult, MPOSection, Lineage, Sensitivity, Benchmark, PlanFile, PlanResult, Inspection, Doctor, TaskList, TensorFacts, TensorSpectrum, TensorDiffLine, ChatModel, ChatReply, ChatToken, ChatRequest, WebviewRequest, HostMessage, ListModelsInput, ListLayersInput, ReadProfileInput, ProfileInput, PlanInput, RunPlanInput, TensorizeInput, HealInput, QuantizeInput, BenchmarkInput, RunStatusInput } from './types.ts';

export interface Validator<T> {
  (value: unknown): value is T;
  errors?: { instancePath: string; message?: string; params?: Readonly<Record<string, unknown>> }[] | null;
}
export const isRunRequest: Validator<RunRequest>;
export const isRunStatus: Validator<RunStatus>;
export const isRunEvent: Validator<RunEvent>;
export const isRunResult: Validator<RunResult>;
export const isMPOSection: Validator<MPOSection>;
export const isLineage: Validator<Lineage>;
export const isSensitivity: Validator<Sensitivity>;
export const isBenchmark: Validator<Benchmark>;
export const isPlanFile: Validator<PlanFile>;
export const isPlanResult: Validator<PlanResult>;
export const isInspection: Validator<Inspection>;
export const isDoctor: Validator<Doctor>;
export const isTaskList: Validator<TaskList>;
export const isTensorFacts: Validator<TensorFacts>;
export const isTensorSpectrum: Validator<TensorSpectrum>;
export const isTensorDiffLine: Validator<TensorDiffLine>;
export const isChatModel: Validator<ChatModel>;
export const isChatReply: Validator<ChatReply>;
export const isChatToken: Validator<ChatToken>;
export const isChatRequest: Validator<ChatRequest>;
export const isWebviewRequest: Validator<WebviewRequest>;
export const isHostMessage: Validator<HostMessage>;
export const isListModelsInput: Validator<ListModelsInput>;
export const isListLayersInput: Validator<ListLayersInput>;
export const isReadProfileInput: Validator<ReadProfileInput>;
export const isProfileInput: Validator<ProfileInput>;
export const isPlanInput: Validator<PlanInput>;
export const isRunPlanInput: Validator<RunPlanInput>;
export const isTensorizeInput: Validator<TensorizeInput>;
export const isHealInput: Validator<HealInput>;
export const isQuantizeInput: Validator<QuantizeInput>;
export const isBenchmarkInput: Validator<BenchmarkInput>;
export const isRunStatusInput: Validator<RunStatusInput>;
