/** The words of the webviews: `t` with the translations that panels/html.ts has put into the document. */
import { displayLanguage, t, useTranslations } from '../../extension/l10n/text.ts';

interface Page {
  readonly documentElement: { readonly lang: string };
  getElementById(id: string): { readonly textContent: string } | null;
}

// Unit tests have no document.
const page = (globalThis as { readonly document?: Page }).document;
const block = page?.getElementById('l10n');
if (page && block) {
  useTranslations(JSON.parse(block.textContent) as Record<string, string>, page.documentElement.lang);
}

export { displayLanguage, t };
