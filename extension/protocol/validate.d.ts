// Made by `npm run generate` from engine/bondwise/schema/. Edit that file, not this one.
import type { RunRequest, RunStatus, RunEvent, RunResult, MPOSection, Lineage, Sensitivity, Benchmark, PlanFile, PlanResult, Inspection, Doctor, TaskList, WebviewRequest, HostMessage } from './types.ts';

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
export const isWebviewRequest: Validator<WebviewRequest>;
export const isHostMessage: Validator<HostMessage>;
