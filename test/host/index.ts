/** What VS Code's extension host loads through `extensionTestsPath`: exports `run()`. Built to dist/test-host.cjs. */
import Mocha from 'mocha';

export async function run(): Promise<void> {
  const mocha = new Mocha({ ui: 'bdd', color: false, timeout: 20_000, reporter: 'spec' });
  // The suites are in this bundle, not in files that mocha could load: they are made between the two events that it sends around a file.
  mocha.suite.emit('pre-require', globalThis, 'test-host.cjs', mocha);
  if (process.env.BONDWISE_SOAK) {
    await import('./soak.test.ts');
  } else {
    await import('./manifest.test.ts');
    await import('./models.test.ts');
    await import('./tensorize.test.ts');
    await import('./quantize.test.ts');
    await import('./runs.test.ts');
    await import('./consent.test.ts');
    await import('./panels.test.ts');
    await import('./sensitivity.test.ts');
    await import('./plan.test.ts');
    await import('./benchmark.test.ts');
    await import('./heal.test.ts');
    await import('./tensors.test.ts');
    await import('./tools.test.ts');
    await import('./api.test.ts');
  }
  mocha.suite.emit('post-require', globalThis, 'test-host.cjs', mocha);
  await new Promise<void>((resolve, reject) => {
    mocha.run(failures => (failures === 0 ? resolve() : reject(new Error(`${failures} tests failed`))));
  });
}
