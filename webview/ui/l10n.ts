/** The words of the webviews: `t` with the translations that panels/html.ts has put into the document. */
import { t, useTranslations } from '../../extension/l10n/text.ts';

// In a test there is no document.
const block = typeof document === 'undefined' ? null : document.getElementById('l10n');
if (block !== null) {
  useTranslations(JSON.parse(block.textContent) as Record<string, string>, document.documentElement.lang);
}

export { t };
