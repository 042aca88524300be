/** How the models answer: few things, out of the way until they are wanted. */
import type { ChatSettings } from '../../extension/protocol/types.ts';
import { h } from '../ui/dom.ts';
import { t } from '../ui/l10n.ts';
import { HOTTEST, MOST_TOKENS, readState } from './state.ts';

type Settings = Required<ChatSettings>;

export class SettingsView {
  readonly element: HTMLElement;
  #settings: Settings;
  readonly #summary = h('summary', {});
  readonly #onChange: (settings: Settings) => void;

  constructor(settings: Settings, onChange: (settings: Settings) => void) {
    this.#settings = settings;
    this.#onChange = onChange;
    const system = document.createElement('textarea');
    system.rows = 2;
    system.value = settings.system;
    system.addEventListener('input', () => this.#change({ system: system.value }));
    this.element = h(
      'details',
      { class: 'settings' },
      this.#summary,
      h('label', { class: 'system' }, h('span', {}, t('System prompt')), system),
      h(
        'div',
        { class: 'numbers' },
        this.#number('temperature', t('Temperature'), t('0: always the likeliest token'), { min: 0, max: HOTTEST, step: 0.1 }),
        this.#number('seed', t('Seed'), t('The same seed gives the same answer'), { min: 0, max: 2 ** 31, step: 1 }),
        this.#number('max_tokens', t('Most tokens'), t('Of one answer'), { min: 1, max: MOST_TOKENS, step: 1 }),
      ),
    );
    this.#tell();
  }

  #number(key: 'temperature' | 'seed' | 'max_tokens', label: string, hint: string, range: Readonly<Record<'min' | 'max' | 'step', number>>): HTMLElement {
    const input = document.createElement('input');
    Object.assign(input, { type: 'number', value: String(this.#settings[key]), title: hint, min: String(range.min), max: String(range.max), step: String(range.step) });
    input.addEventListener('change', () => {
      this.#change({ [key]: input.valueAsNumber });
      // What cannot be is not taken.
      input.value = String(this.#settings[key]);
    });
    return h('label', { class: 'field' }, h('span', {}, label), input);
  }

  #change(change: Partial<Settings>): void {
    this.#settings = readState({ settings: { ...this.#settings, ...change } }).settings;
    this.#tell();
    this.#onChange(this.#settings);
  }

  #tell(): void {
    const { temperature, seed, max_tokens: most, system } = this.#settings;
    const drawn = temperature === 0 ? t('the likeliest tokens') : t('temperature {0}, seed {1}', temperature, seed);
    this.#summary.textContent = [t('Answers: {0}, at most {1} tokens', drawn, most), ...(system.trim() === '' ? [] : [t('with a system prompt')])].join(', ');
  }
}
