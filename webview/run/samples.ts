/** What original, compressed and healed model write after the same prompt, at the validation that is chosen. */
import { formatCount } from '../../extension/runs/format.ts';
import { bestOf, type History } from '../../extension/runs/healFold.ts';
import { perplexityOf } from '../../extension/views/healText.ts';
import { choice } from '../ui/controls.ts';
import { h } from '../ui/dom.ts';
import { t } from '../ui/l10n.ts';

const LATEST = 'latest';

export class Samples {
  readonly #choice;
  readonly #texts = h('div', { class: 'samples' });
  readonly element: HTMLElement;
  #shown = '';

  /** @param choose called with a step, or undefined for the latest. */
  constructor(choose: (step: number | undefined) => void) {
    this.#choice = choice(t('Healed, at'), id => choose(id === LATEST ? undefined : Number(id)));
    this.element = h('section', { 'aria-labelledby': 'samples', hidden: '' }, h('div', { class: 'headline' }, h('h2', { id: 'samples' }, t('What they write')), this.#choice.element), this.#texts);
  }

  show({ plan, validations }: History, chosen: number | undefined): void {
    const prompt = plan?.prompt;
    const start = validations.find(({ step }) => step === 0);
    this.element.hidden = prompt === undefined || !start;
    if (prompt === undefined || !start) {
      return;
    }
    const later = validations.filter(({ step }) => step > 0);
    const best = bestOf(validations);
    const healed = later.find(({ step }) => step === chosen) ?? later.at(-1);
    const name = (step: number, loss: number) => t('step {0} · perplexity {1}{2}', formatCount(step), perplexityOf(loss), step === best?.step ? ` ${t('(best)')}` : '');
    this.#choice.show(
      [{ id: LATEST, name: t('the latest validation') }, ...later.toReversed().map(({ step, loss }) => ({ id: String(step), name: name(step, loss) }))],
      healed && healed.step === chosen ? String(chosen) : LATEST,
    );
    const original = typeof plan?.teacher_loss === 'number';
    const columns = [
      [t('Original'), original ? t('perplexity {0}', perplexityOf(plan.teacher_loss ?? 0)) : t('not loaded'), original ? (plan.teacher_sample ?? '') : undefined],
      [t('Compressed'), t('before healing · perplexity {0}', perplexityOf(start.loss)), start.sample],
      [t('Healed'), healed ? name(healed.step, healed.loss) : t('not validated yet'), healed?.sample],
    ] as const;
    const shown = JSON.stringify([prompt, columns]);
    if (shown === this.#shown) {
      return;
    }
    this.#shown = shown;
    this.#texts.replaceChildren(
      ...columns.map(([title, note, text]) =>
        h(
          'figure',
          {},
          h('figcaption', {}, title, h('span', { class: 'aside' }, note)),
          text === undefined
            ? h('p', { class: 'note' }, title === t('Original') ? t('This run trains without the original, so it is not here to write.') : t('It writes after the first validation.'))
            : h('blockquote', {}, h('span', { class: 'prompt' }, prompt), text || ` ${t('(nothing)')}`),
        ),
      ),
    );
  }
}
