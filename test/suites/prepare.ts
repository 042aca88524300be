/** What suites need before they can run. Each thing is prepared once, when the first suite asks. */
import { mkdir } from 'node:fs/promises';
import { existsSync } from 'node:fs';
import path from 'node:path';
import { bondwiseHome } from '../../extension/engine/home.ts';
import { getSampleModel } from '../../extension/scripts/demo.ts';
import { ensureEnvironment } from '../../extension/scripts/environment.ts';
import { packageExtension } from '../../extension/scripts/package.ts';
import { projectRoot } from '../../extension/scripts/project.ts';
import { provisionBrowser, provisionWorkbench } from '../../extension/scripts/provision.ts';
import { runQuiet, step } from '../../extension/scripts/terminal.ts';

/** The development environment: the engine's packages and those of its tests. */
const environment = once(() => ensureEnvironment('requirements-dev.lock'));

export const python = once(async () => (await environment()).python);

export const browser = once(provisionBrowser);

/** code-server and a browser, one after the other: both are npm or apt at work, and two at once are no faster. */
export const workbench = once(async () => {
  await provisionWorkbench();
  return browser();
});

/** SmolLM2-135M-Instruct as a Hugging Face folder. BONDWISE_TEST_MODELS names another place to keep it. */
export const sampleModel = once(async () => {
  const folder = process.env.BONDWISE_TEST_MODELS ?? path.join(bondwiseHome(), 'test-models');
  const directory = path.join(folder, 'SmolLM2-135M-Instruct');
  if (!existsSync(path.join(directory, 'config.json'))) {
    const tools = await environment();
    await mkdir(folder, { recursive: true });
    await step('Getting the sample model (about a minute, once)', () => getSampleModel(tools, directory, 'quiet'));
  }
  return directory;
});

/** The extension as users install it. */
export const vsix = once(() => step('Packaging the extension', packageExtension));

/** The suite that runs inside the extension host, and the extension that it tests. Writes into dist/, as packaging does: not at once. */
export const hostBundle = once(async () => {
  await vsix();
  await runQuiet(process.execPath, ['esbuild.mjs'], { cwd: projectRoot, failure: 'The extension and its suite do not build.' });
  return path.join(projectRoot, 'dist/test-host.cjs');
});

function once<T>(work: () => Promise<T>): () => Promise<T> {
  let result: Promise<T> | undefined;
  return () => (result ??= work());
}
