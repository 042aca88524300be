/**
 * `npm test` runs every suite, `npm test -- NAME …` the named ones, `npm test -- --list` says which there are.
 * It brings what they need: the engine's environment, a real VS Code workbench, a browser, the sample model.
 */
import { parseArgs } from 'node:util';
import { formatDuration } from '../extension/runs/format.ts';
import { formatTable, main, ScriptError } from '../extension/scripts/terminal.ts';
import { add, type Counts, none } from './suites/counts.ts';
import { type Suite, suites } from './suites/suites.ts';

interface Outcome {
  readonly suite: Suite;
  readonly counts: Counts;
  readonly seconds: number;
}

/** A suite at work: what it tells is kept until its turn. */
class Begun {
  readonly #start = performance.now();
  readonly #outcome: Promise<Outcome>;
  #kept: string[] | undefined = [];

  constructor(suite: Suite) {
    this.#outcome = this.#run(suite);
  }

  show(): Promise<Outcome> {
    process.stdout.write((this.#kept ?? []).join(''));
    this.#kept = undefined;
    return this.#outcome;
  }

  #write(text: string): void {
    if (this.#kept) {
      this.#kept.push(text);
    } else {
      process.stdout.write(text);
    }
  }

  async #run(suite: Suite): Promise<Outcome> {
    let counts: Counts;
    try {
      await suite.prepare();
      this.#write(`\n━━ ${suite.name}: ${suite.about}\n`);
      counts = await suite.run((text) => this.#write(text));
    } catch (error) {
      this.#write(`\n━━ ${suite.name} could not run: ${error instanceof ScriptError ? error.message : String(error)}\n`);
      counts = { ...none, failed: 1 };
    }
    return { suite, counts, seconds: (performance.now() - this.#start) / 1000 };
  }
}

await main(async () => {
  const { values, positionals } = parseArgs({ allowPositionals: true, options: { list: { type: 'boolean' } } });
  if (values.list === true) {
    console.log(suites.map(({ name, about }) => `${name.padEnd(14)} ${about}`).join('\n'));
    return 0;
  }
  const unknown = positionals.filter((name) => !suites.some((suite) => suite.name === name));
  if (unknown.length > 0) {
    throw new ScriptError(`No suite ${unknown.join(', ')}. There are: ${suites.map((suite) => suite.name).join(', ')}`);
  }
  const chosen = suites.filter((suite) => positionals.length === 0 || positionals.includes(suite.name));
  const outcomes = await runAll(chosen);
  console.log(`\n${report(outcomes)}`);
  const { passed, failed, skipped } = outcomes.map((outcome) => outcome.counts).reduce(add, none);
  console.log(`\n${passed} passed, ${failed} failed, ${skipped} skipped`);
  return failed === 0 ? 0 : 1;
});

async function runAll(chosen: readonly Suite[]): Promise<Outcome[]> {
  // Installing waits for the network, the first suites for the processor: they go side by side. A failure is told by the suite that needs it.
  for (const suite of chosen) {
    suite.prepare().catch(() => undefined);
  }
  const early = new Map(chosen.filter((suite) => suite.early === true).map((suite) => [suite, new Begun(suite)]));
  const outcomes: Outcome[] = [];
  for (const suite of chosen) {
    outcomes.push(await (early.get(suite) ?? new Begun(suite)).show());
  }
  return outcomes;
}

function report(outcomes: readonly Outcome[]): string {
  const cells = ({ suite, counts, seconds }: Outcome): string[] => [
    `${counts.failed === 0 ? '✔' : '✖'} ${suite.name}`,
    String(counts.passed),
    String(counts.failed),
    String(counts.skipped),
    formatDuration(seconds),
  ];
  return formatTable(['suite', 'passed', 'failed', 'skipped', 'time'], outcomes.map(cells));
}
