/** Runs the suite of test/host inside the extension host of a real workbench: `node host.ts BUNDLE`. */
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { projectRoot } from '../../extension/scripts/project.ts';
import { runInHost } from '../e2e/host.ts';
import { Server } from '../e2e/server.ts';

const tests = process.argv[2];
if (tests === undefined) {
  throw new Error('usage: node host.ts BUNDLE');
}
const { BONDWISE_HOME, BONDWISE_TEST_PYTHON, BONDWISE_SOAK } = process.env;
const server = await Server.start({ driver: true, env: { BONDWISE_HOME, BONDWISE_TEST_PYTHON, BONDWISE_SOAK } });
try {
  await mkdir(path.join(server.folder, '.vscode'), { recursive: true });
  process.exitCode = await runInHost(server, { development: projectRoot, tests, timeout: BONDWISE_SOAK ? 1_200_000 : 300_000, onLine: (line) => console.log(line) });
} finally {
  await server.stop();
}
