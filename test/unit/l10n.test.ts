import { afterEach, expect, it } from 'vitest';
import { displayLanguage, t, useTranslations } from '../../extension/l10n/text.ts';
import { germanProblems, messagesOf, translationProblems } from '../../extension/scripts/translations.ts';

afterEach(() => useTranslations({}, 'en'));

it('is complete in German', async () => {
  expect(await germanProblems()).toEqual([]);
});

it('says what it is given where there is no translation, and fills the places', () => {
  expect(t('{0} of {1} layers', 3, 'all {0}')).toBe('3 of all {0} layers');
  useTranslations({ '{0} of {1} layers': '{1} Schichten, davon {0}' }, 'de');
  expect(t('{0} of {1} layers', 3, 7)).toBe('7 Schichten, davon 3');
  expect(displayLanguage()).toBe('de');
});

it('finds the messages in the sources, and those that nobody could translate', () => {
  const source = "vscode.l10n.t('One'); t(many ? 'Two' : `Th` + 'ree', ...all); other('No'); t('{0}', t('In'));";
  expect(messagesOf('a.ts', source).map(({ text }) => text)).toEqual(['One', 'Two', 'Three', '{0}', 'In']);
  expect(() => messagesOf('a.ts', '\nt(`${count} layers`)')).toThrow('a.ts:2: the message is not a literal');
  expect(() => messagesOf('a.ts', "t('{0} of {1}', done)")).toThrow('place {1}, and 1 values');
});

it('names what a translation lacks, has too much, or has with other places', () => {
  const originals = new Map(['A {0}', 'B', 'C [x](command:y)'].map(text => [text, { text, place: 'a.ts:1' }]));
  expect(translationProblems('de', originals, { 'A {0}': 'A {1}', D: 'D', 'C [x](command:y)': 'C [z](command:y)' })).toEqual([
    'de has other placeholders, links or icons in "A {0}": "A {1}"',
    'de lacks "B" (a.ts:1)',
    'de translates "D", which nothing says any more',
  ]);
});
