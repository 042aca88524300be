import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/unit/**/*.test.ts', 'extension/safetensors-ts/test/**/*.test.ts'],
    // Some tests start real processes and sockets, on machines that may be busy.
    testTimeout: 30_000,
  },
});
