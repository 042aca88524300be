/** Whether axe finds anything in a webview, in each of the four kinds of theme. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import type { AxeResults } from 'axe-core';
import type { Frame } from 'playwright-core';
import type { Workbench } from './workbench.ts';

/** Rules that say nothing of a view inside the workbench, each with the reason. */
const BESIDE_THE_POINT: readonly string[] = [];

/** Fails with what was found, where, and in which theme. The frame may be another after each change: `find` gets it. */
export async function assertAccessible(window: Workbench, find: () => Promise<Frame>): Promise<void> {
  const source = await readFile(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
  const found: string[] = [];
  await window.inThemes(async (theme, kind) => {
    const frame = await find();
    await frame.locator(`body.${kind}`).waitFor();
    // The theme's colours are to be looked at, not the system's.
    await frame.evaluate('document.documentElement.style.forcedColorAdjust = "none"');
    await frame.evaluate(source);
    const options = { iframes: false, preload: false, resultTypes: ['violations'], rules: Object.fromEntries(BESIDE_THE_POINT.map((rule) => [rule, { enabled: false }])) };
    const { violations } = await frame.evaluate<AxeResults>(`axe.run(document, ${JSON.stringify(options)})`);
    await frame.evaluate('document.documentElement.style.forcedColorAdjust = ""');
    for (const { id, impact, nodes } of violations) {
      found.push(...nodes.map(({ target, failureSummary = '' }) => `${theme}: ${id} (${impact ?? 'no'} impact) at ${target.join(' ')}: ${failureSummary.replaceAll(/\s+/g, ' ')}`));
    }
  });
  assert.deepEqual(found, []);
}
