/** Page object of Bondwise's views and of its Tensorize… steps. */
import type { Locator } from 'playwright-core';
import { exactly, type Workbench } from './workbench.ts';

/** A run of a single layer or more takes minutes on a small machine. */
export const runTimeout = 600_000;

export interface TensorizeAnswers {
  /** Label in the list, such as `2 sites`. */
  readonly sites: string;
  /** Typed, such as `50%` or `64`. */
  readonly size: string;
}

export class Bondwise {
  readonly #window: Workbench;

  constructor(window: Workbench) {
    this.#window = window;
  }

  get models(): Locator {
    return this.#window.view('Models');
  }

  get runs(): Locator {
    return this.#window.view('Runs');
  }

  async open(): Promise<void> {
    await this.#window.openContainer('Bondwise');
    await this.models.waitFor();
  }

  model(name: string): Locator {
    return this.#window.row(this.models, name);
  }

  /** By its title as a screen reader says it: the row shows it as far as there is room. A text is the whole title. */
  run(title: string | RegExp): Locator {
    return typeof title === 'string' ? this.runs.locator(`[role="treeitem"][aria-label^="${title}, "]`) : this.runs.getByRole('treeitem', { name: title });
  }

  /** A row's second, paler text. */
  description(row: Locator): Locator {
    return row.locator('.label-description');
  }

  /** Waits for a row whose description holds the text. */
  async described(row: Locator, text: string | RegExp, timeout = 60_000): Promise<void> {
    await row.filter({ has: this.#window.page.locator('.label-description', { hasText: text }) }).waitFor({ timeout });
  }

  /** Text and buttons of a view that has no rows. */
  welcome(view: Locator): Locator {
    return view.locator('.welcome-view-content');
  }

  /** Expands the Models view along labels and returns the last row, scrolled into view. */
  async openPath(...labels: readonly string[]): Promise<Locator> {
    let row = this.model(labels[0] ?? '');
    for (const [depth, label] of labels.entries()) {
      row = this.models
        .locator(`.monaco-list-row[role="treeitem"][aria-level="${depth + 1}"]`)
        .filter({ has: this.#window.page.locator('.label-name', { hasText: exactly(label) }) });
      await this.#window.scrollTo(this.models, row);
      if (depth < labels.length - 1) {
        await this.#window.expand(row);
      }
    }
    return row;
  }

  /** Answers the steps of Tensorize… up to the name, and returns the name that is proposed. `shots` names screenshots of the steps. */
  async answerTensorize(answers: TensorizeAnswers, shots?: string): Promise<string> {
    const window = this.#window;
    await window.pickRow(answers.sites).waitFor();
    await this.#shot(shots, 'sites');
    await window.pickRow(answers.sites).click();
    await window.quickInput().locator('.quick-input-list', { hasText: 'kept' }).waitFor();
    await this.#shot(shots, 'sizes');
    await window.quickInputBox().fill(answers.size);
    await window.pickRow(/^(χ \d+|\d+%)/).waitFor();
    await this.#shot(shots, 'size-typed');
    await window.quickInputBox().press('Enter');
    await window.quickInput().locator('.quick-input-message', { hasText: 'folder in' }).waitFor();
    await this.#shot(shots, 'name');
    return window.quickInputBox().inputValue();
  }

  /** Answers the steps of Heal Model… as proposed but for the budget, which is typed, and returns the name that is proposed and taken. */
  async answerHeal(budget: string, shots?: string): Promise<string> {
    const window = this.#window;
    await window.pickRow('Built-in text').waitFor({ timeout: 120_000 });
    await this.#shot(shots, 'data');
    await window.quickInputBox().press('Enter');
    await window.pickRow('The text alone').waitFor();
    await this.#shot(shots, 'loss');
    await window.quickInputBox().press('Enter');
    await window.pickRow('20 min').waitFor();
    await this.#shot(shots, 'budget');
    await window.quickInputBox().fill(budget);
    await window.pickRow(/^[\d.]+ (min|h)$/).waitFor();
    await this.#shot(shots, 'budget-typed');
    await window.quickInputBox().press('Enter');
    await window.quickInput().locator('.quick-input-message', { hasText: 'folder in' }).waitFor();
    await this.#shot(shots, 'name');
    const name = await window.quickInputBox().inputValue();
    await window.quickInputBox().press('Enter');
    return name;
  }

  async #shot(prefix: string | undefined, name: string): Promise<void> {
    if (prefix !== undefined) {
      await this.#window.shotInThemes(`${prefix}-${name}`);
    }
  }
}
