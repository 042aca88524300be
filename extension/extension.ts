/** `activate()`: builds the parts and wires them, nothing else. */
import './l10n/host.ts';
import path from 'node:path';
import * as vscode from 'vscode';
import type { BondwiseApi } from './api/bondwise.d.ts';
import { publicApi } from './api/index.ts';
import { benchmarkModels, showBenchmark } from './commands/benchmark.ts';
import { chatWithModels } from './commands/chat.ts';
import { cleanUpRuns } from './commands/cleanUpRuns.ts';
import { compareTensors } from './commands/compareTensors.ts';
import { EngineCommands } from './commands/engine.ts';
import { exportModel } from './commands/export.ts';
import { heal } from './commands/heal.ts';
import { mapActions, showMap } from './commands/map.ts';
import { modelCommands, showModel } from './commands/models.ts';
import { exchangeOf, planCompression } from './commands/plan.ts';
import { profileSensitivity } from './commands/profile.ts';
import { planTasks } from './commands/planTasks.ts';
import { register, showError } from './commands/register.ts';
import { runPlan } from './commands/runPlan.ts';
import { announceRuns, offerResume, openFolder, revealRun, runCommands } from './commands/runs.ts';
import { heatmapActions, showSensitivity } from './commands/sensitivity.ts';
import { followRunRoots } from './commands/startRun.ts';
import { quantize } from './commands/quantize.ts';
import { tensorize } from './commands/tensorize.ts';
import { showTensors } from './commands/tensors.ts';
import { ChatPanels } from './panels/chat.ts';
import { ComparePanels } from './panels/compare.ts';
import { DiffPanels } from './panels/diff.ts';
import { LayerSelection } from './panels/layerSelection.ts';
import { MapPanels } from './panels/map.ts';
import { PlanOverlays } from './panels/planOverlays.ts';
import { ReportPanels } from './panels/report.ts';
import { RunPanels } from './panels/run.ts';
import { SensitivityPanels } from './panels/sensitivity.ts';
import type { SensitivityActions } from './panels/sensitivityPanel.ts';
import { TensorsEditors } from './panels/tensors.ts';
import { storedExclusions } from './profile/exclusions.ts';
import { messageOf } from './runs/files.ts';
import { RunStore } from './runs/store.ts';
import { languageModelTools } from './tools/index.ts';
import { stateDecorations } from './views/decorations.ts';
import { ModelList } from './views/modelList.ts';
import type { TreeNode } from './views/modelNodes.ts';
import { ModelsTree } from './views/modelsTree.ts';
import { ProfileList } from './views/profileList.ts';
import { logRuns, showActiveRuns } from './views/runFeedback.ts';
import { RunTexts } from './views/runText.ts';
import { RunsTree } from './views/runsTree.ts';

/** For the suite inside the extension host, which gets the parts besides what other extensions get. */
export interface Api extends BondwiseApi {
  readonly models: ModelList;
  readonly modelsTree: ModelsTree;
  readonly modelsView: vscode.TreeView<TreeNode>;
  readonly runs: RunStore;
  readonly runsTree: RunsTree;
  readonly panels: ComparePanels;
  readonly runPanels: RunPanels;
  readonly profiles: ProfileList;
  readonly heatmaps: SensitivityPanels;
  readonly selection: LayerSelection;
  readonly plans: PlanOverlays;
  readonly reports: ReportPanels;
  readonly tensors: TensorsEditors;
  readonly maps: MapPanels;
  readonly chats: ChatPanels;
}

export function activate(context: vscode.ExtensionContext): BondwiseApi {
  const log = vscode.window.createOutputChannel('Bondwise', { log: true });
  const storage = context.storageUri ?? context.globalStorageUri;
  const runs = new RunStore();
  const runsTree = new RunsTree(runs);
  const models = new ModelList(context.workspaceState, log);
  const profiles = new ProfileList(models, runs, log);
  const modelsTree = new ModelsTree(models, profiles, context.workspaceState);
  const modelsView = vscode.window.createTreeView('bondwise.models', { treeDataProvider: modelsTree, canSelectMany: true, showCollapseAll: true });
  const runsView = vscode.window.createTreeView('bondwise.runs', { treeDataProvider: runsTree, canSelectMany: true, showCollapseAll: true });
  const engine = new EngineCommands(path.join(context.extensionPath, 'engine'), runs, log);

  const modelView = { models, tree: modelsTree, view: modelsView };
  const runView = { tree: runsTree, view: runsView };
  const reveal = (folder: string, layer?: string) => showModel(modelView, folder, layer);
  const panels = new ComparePanels(context.extensionUri, { revealLayer: reveal, openFolder, showMap: async (folder, beside) => vscode.commands.executeCommand('bondwise.showMap', folder, beside) }, log);
  const compare = (folder: string) => panels.show(folder);
  const runPanels = new RunPanels({ extension: context.extensionUri, runs, log });
  const showPanel = (directory: string) => runPanels.show(directory);
  const showRun = (directory: string) => revealRun(runView, directory);
  const plans = new PlanOverlays();
  const selection = new LayerSelection(modelsTree, modelsView);
  const exchange = (...asked: Parameters<SensitivityActions['exchange']>) => exchangeOf(engine, ...asked);
  const actions = heatmapActions({ models, tree: modelsTree, exclusions: storedExclusions(context.workspaceState), log, revealLayer: reveal, showRun, exchange });
  const heatmaps = new SensitivityPanels({ extension: context.extensionUri, profiles, runs, selection, plans, log, actions });
  const tensors = new TensorsEditors({ extension: context.extensionUri, engine, log });
  const diffs = new DiffPanels({ extension: context.extensionUri, engine, log });
  const sensitivity = (file: string) => heatmaps.show(file);
  const maps = new MapPanels({
    extension: context.extensionUri,
    models,
    profiles,
    selection,
    log,
    actions: mapActions({ models, tree: modelsTree, log, revealLayer: reveal }),
  });
  const reports = new ReportPanels({
    extension: context.extensionUri,
    runs,
    log,
    actions: {
      benchmark: async file => vscode.commands.executeCommand('bondwise.benchmarkModels', file),
      cancelRun: async directory => vscode.commands.executeCommand('bondwise.cancelRun', directory),
      openFolder,
      showRun,
      failed: error => void showError(log, error),
    },
  });
  const report = (file: string) => reports.show(file);
  const chats = new ChatPanels({ context, extension: context.extensionUri, models, environment: () => engine.require(), log });
  const runParts = { context, runs, ...runView, engine, log, models, profiles, storage, showModel: reveal, showRun, compare, sensitivity, showSensitivity: sensitivity, report, showReport: report, showPanel, isShown: (directory: string) => runPanels.isVisible(directory) };

  context.subscriptions.push(
    log,
    runs,
    runsTree,
    models,
    modelsTree,
    modelsView,
    runsView,
    engine,
    panels,
    runPanels,
    profiles,
    selection,
    plans,
    heatmaps,
    reports,
    tensors,
    maps,
    diffs,
    new RunTexts(runs),
    chats,
    vscode.window.registerFileDecorationProvider(stateDecorations),
    showActiveRuns(runs, runsView),
    logRuns(runs, log),
    announceRuns(runParts),
    register(log, {
      ...modelCommands({ ...modelView, runs, engine, storage, showRun, compare }),
      ...runCommands(runParts),
      tensorize: (...args) => tensorize({ context, models, runs, engine, storage, showRun }, args),
      quantize: (...args) => quantize({ context, models, runs, engine, storage, showRun }, args),
      heal: (...args) => heal({ context, models, runs, engine, storage, showRun, showPanel }, args),
      showSensitivity: (...args) => showSensitivity({ models, profiles, view: modelsView, panels: heatmaps }, args),
      profileSensitivity: (...args) => profileSensitivity({ context, models, profiles, runs, engine, storage, showSensitivity: sensitivity }, args),
      planCompression: (...args) => planCompression({ models, profiles, view: modelsView, engine }, args),
      runPlan: (...args) => runPlan({ context, models, runs, engine, storage, showRun }, args),
      benchmarkModels: (...args) => benchmarkModels({ context, models, runs, engine, storage, showReport: report }, args),
      showBenchmark: (...args) => showBenchmark(report, args),
      chat: (...args) => chatWithModels(models, folders => chats.chat(folders), args),
      export: (...args) => exportModel({ context, models, runs, engine, storage, showRun }, args),
      cleanUpRuns: () => cleanUpRuns(runs),
      showTensors: (...args) => showTensors(tensors, args),
      showMap: (...args) => showMap({ models, profiles, view: modelsView }, maps, args),
      compareTensors: (...args) => compareTensors({ models, profiles, view: modelsView }, diffs, args),
      sortBySensitivity: () => modelsTree.sortBySensitivity(true),
      sortByPosition: () => modelsTree.sortBySensitivity(false),
      checkEngine: () => engine.check(),
      setUpEngine: () => engine.setUp(),
    }),
    planTasks(engine),
    languageModelTools({ context, models, profiles, runs, engine, storage, showRun }),
    followRunRoots(runs, storage, () => offerResume(runParts), error => log.error(messageOf(error))),
  );
  const api = publicApi({ context, models, profiles, runs, engine, storage });
  const forTests = (): Api => ({ ...api, models, modelsTree, modelsView, runs, runsTree, panels, runPanels, profiles, heatmaps, selection, plans, tensors, reports, maps, chats });
  return context.extensionMode === vscode.ExtensionMode.Test ? forTests() : api;
}
