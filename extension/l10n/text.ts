/**
 * Words for a person, in the language of the editor: `t` is `vscode.l10n.t` for code that must run without VS Code, in the extension's
 * host and in webviews alike. Without translations it says what it is given.
 */
let translations: Readonly<Record<string, string>> = {};
let language = 'en';

/** @param bundle English message → translation, as in bundle.l10n.LANGUAGE.json. */
export function useTranslations(bundle: Readonly<Record<string, string>>, of: string): void {
  translations = bundle;
  language = of;
}

/** The message in the editor's language, with `values` in the places `{0}`, `{1}` … */
export function t(message: string, ...values: readonly (string | number)[]): string {
  return (translations[message] ?? message).replace(/\{(\d+)\}/g, (place, index: string) => String(values[Number(index)] ?? place));
}

/** The language that `t` speaks, as a BCP 47 tag: English where there is no translation. */
export function displayLanguage(): string {
  return language;
}
