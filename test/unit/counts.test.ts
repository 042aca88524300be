import { describe, expect, test } from 'vitest';
import { add, fromJunit, fromMocha, fromTap, fromVitest, none, settle } from '../suites/counts.ts';

describe('counts of', () => {
  test('node:test', () => {
    const tap = 'TAP version 13\nok 1 - a\n1..4\n# tests 6\n# suites 0\n# pass 2\n# fail 1\n# cancelled 1\n# skipped 1\n# todo 1\n# duration_ms 12.5\n';
    expect(fromTap(tap)).toEqual({ passed: 2, failed: 2, skipped: 2 });
  });

  test('pytest', () => {
    const xml =
      '<?xml version="1.0" encoding="utf-8"?><testsuites name="pytest tests"><testsuite name="pytest" errors="1" failures="2" skipped="3" tests="10" time="1.2">' +
      '<testcase classname="x" name="skipped" tests="4"/></testsuite></testsuites>';
    expect(fromJunit(xml)).toEqual({ passed: 4, failed: 3, skipped: 3 });
  });

  test('vitest', () => {
    const report = { numPassedTests: 7, numFailedTests: 2, numPendingTests: 1, numTodoTests: 1, numFailedTestSuites: 3 };
    expect(fromVitest(JSON.stringify(report))).toEqual({ passed: 7, failed: 2, skipped: 2 });
    expect(fromVitest(JSON.stringify({ numPassedTests: 7, numFailedTests: 0, numFailedTestSuites: 1 }))).toEqual({ passed: 7, failed: 1, skipped: 0 });
  });

  test('mocha', () => {
    expect(fromMocha('  suite\n    ✔ a\n\n  12 passing (3s)\n  1 pending\n  2 failing\n\n  1) suite\n')).toEqual({ passed: 12, failed: 2, skipped: 1 });
  });
});

test('a runner that failed or ran nothing without naming a test has failed once', () => {
  expect(settle(none, 1)).toEqual({ passed: 0, failed: 1, skipped: 0 });
  expect(settle(none, 0)).toEqual({ passed: 0, failed: 1, skipped: 0 });
  expect(settle({ passed: 3, failed: 0, skipped: 0 }, 1)).toEqual({ passed: 3, failed: 1, skipped: 0 });
  expect(settle({ passed: 3, failed: 2, skipped: 0 }, 1)).toEqual({ passed: 3, failed: 2, skipped: 0 });
  expect(settle({ passed: 3, failed: 0, skipped: 1 }, 0)).toEqual({ passed: 3, failed: 0, skipped: 1 });
});

test('counts add up', () => {
  expect([{ passed: 1, failed: 2, skipped: 3 }, { passed: 10, failed: 20, skipped: 30 }].reduce(add, none)).toEqual({ passed: 11, failed: 22, skipped: 33 });
});
