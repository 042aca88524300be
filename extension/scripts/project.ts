/** Where the project's own folders are, for scripts and tests. */
import path from 'node:path';

export const projectRoot = path.join(import.meta.dirname, '../..');
