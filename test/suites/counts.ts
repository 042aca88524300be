/** How many tests passed, from what each test runner writes. */

export interface Counts {
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
}

export const none: Counts = { passed: 0, failed: 0, skipped: 0 };

export function add(left: Counts, right: Counts): Counts {
  return { passed: left.passed + right.passed, failed: left.failed + right.failed, skipped: left.skipped + right.skipped };
}

/** A runner that failed without naming a failed test, or that ran nothing, has failed once: silence is no success. */
export function settle(counts: Counts, status: number): Counts {
  const ran = counts.passed + counts.failed + counts.skipped > 0;
  return counts.failed === 0 && (status !== 0 || !ran) ? { ...counts, failed: 1 } : counts;
}

/** `# pass 3` … at the end of node:test's TAP output. A cancelled test has failed; one marked `todo` is counted as skipped. */
export function fromTap(text: string): Counts {
  const count = (name: string): number => Number(new RegExp(`^# ${name} (\\d+)$`, 'm').exec(text)?.[1] ?? 0);
  return { passed: count('pass'), failed: count('fail') + count('cancelled'), skipped: count('skipped') + count('todo') };
}

/** The totals of pytest's JUnit file. */
export function fromJunit(text: string): Counts {
  const suites = [...text.matchAll(/<testsuite\s[^>]*>/g)].map(([tag]) => {
    const count = (name: string): number => Number(new RegExp(`\\s${name}="(\\d+)"`).exec(tag)?.[1] ?? 0);
    const failed = count('failures') + count('errors');
    return { passed: Math.max(0, count('tests') - failed - count('skipped')), failed, skipped: count('skipped') };
  });
  return suites.reduce<Counts>(add, none);
}

/** Vitest's JSON report. A file that could not be loaded has no tests, so failed files count where they exceed failed tests. */
export function fromVitest(text: string): Counts {
  const report: unknown = JSON.parse(text);
  const count = (name: string): number => {
    const value: unknown = typeof report === 'object' && report !== null ? Reflect.get(report, name) : undefined;
    return typeof value === 'number' ? value : 0;
  };
  return {
    passed: count('numPassedTests'),
    failed: count('numFailedTests') || Number(count('numFailedTestSuites') > 0),
    skipped: count('numPendingTests') + count('numTodoTests'),
  };
}

/** `12 passing`, `1 pending`, `2 failing` at the end of mocha's spec report. */
export function fromMocha(text: string): Counts {
  const count = (name: string): number => Number(new RegExp(`^\\s*(\\d+) ${name}\\b`, 'm').exec(text)?.[1] ?? 0);
  return { passed: count('passing'), failed: count('failing'), skipped: count('pending') };
}
