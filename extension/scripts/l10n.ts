/** `npm run l10n`: what the German translation lacks, a line each. The exit status says whether it is complete. */
import { main } from './terminal.ts';
import { germanProblems } from './translations.ts';

await main(async () => {
  const problems = await germanProblems();
  console.log(problems.length === 0 ? 'The German translation is complete.' : problems.join('\n'));
  return problems.length === 0 ? 0 : 1;
});
