/** Questions in several steps, each with a way back, and answers that are checked as they are typed. */
import * as vscode from 'vscode';

export interface Position {
  readonly title: string;
  readonly step: number;
  readonly totalSteps: number;
}

/** What a question may come back with instead of an answer. */
export const BACK = Symbol('back');
export type Answer<T> = T | typeof BACK | undefined;

/** Asks one question; `next` when it was answered, `BACK` for the question before. */
export type Step = (position: { readonly step: number; readonly totalSteps: number }) => Promise<'next' | typeof BACK | undefined>;

/**
 * @param steps the questions; a function where an answer decides what else is asked, of questions after its own.
 * @returns whether all questions were answered.
 */
export async function askAll(steps: readonly Step[] | (() => readonly Step[])): Promise<boolean> {
  const all = () => (typeof steps === 'function' ? steps() : steps);
  let at = 0;
  while (at < all().length) {
    const outcome = await all()[at]?.({ step: at + 1, totalSteps: all().length });
    if (outcome === undefined || (outcome === BACK && at === 0)) {
      return false;
    }
    at += outcome === BACK ? -1 : 1;
  }
  return true;
}

/** The end of a step: keeps an answer, and passes on what is none. */
export function taken<T>(answer: Answer<T>, keep: (answer: T) => void): 'next' | typeof BACK | undefined {
  if (answer === BACK) {
    return BACK;
  }
  if (answer === undefined) {
    return undefined;
  }
  keep(answer);
  return 'next';
}

export interface PickOptions<T extends vscode.QuickPickItem> {
  readonly position: Position;
  readonly placeholder: string;
  /** The list for what is typed; called at once with the empty text. An item that is no answer is left alone when accepted. */
  readonly items: (text: string) => readonly T[];
  readonly isAnswer?: (item: T) => boolean;
  readonly active?: T;
  /** Stands in the box from the start, as if it had been typed. */
  readonly text?: string;
}

/** One of a list that may follow what is typed. */
export async function pickOne<T extends vscode.QuickPickItem>({ position, placeholder, items, isAnswer, active, text: typed = '' }: PickOptions<T>): Promise<Answer<T>> {
  const input = vscode.window.createQuickPick<T>();
  Object.assign(input, { ...position, placeholder, matchOnDescription: true, matchOnDetail: true, ignoreFocusOut: true });
  input.value = typed;
  input.items = items(typed);
  if (active) {
    // By its label: the list may have been made anew, and an item that is not of it would leave none active.
    input.activeItems = input.items.filter(({ label }) => label === active.label);
  }
  return shown(input, position, resolve => [
    input.onDidChangeValue(text => {
      input.items = items(text);
    }),
    input.onDidAccept(() => {
      // What is typed may be accepted before the list for it has been drawn.
      const item = items(input.value).find(({ alwaysShow }) => alwaysShow) ?? input.activeItems[0];
      if (item && (isAnswer?.(item) ?? true)) {
        resolve(item);
      }
    }),
  ]);
}

export interface PickManyOptions<T extends vscode.QuickPickItem> {
  readonly position: Position;
  readonly items: readonly T[];
  readonly placeholder: (checked: readonly T[]) => string;
  /** Checked from the start; then none at all is an answer too. */
  readonly checked?: readonly T[];
  /** A button in the title that leaves the list for another way to answer. */
  readonly other: vscode.QuickInputButton;
}

export const OTHER = Symbol('other');

/** Several of a list, or `OTHER` when the button was pressed. */
export async function pickMany<T extends vscode.QuickPickItem>({ position, items, placeholder, checked, other }: PickManyOptions<T>): Promise<Answer<readonly T[] | typeof OTHER>> {
  const input = vscode.window.createQuickPick<T>();
  Object.assign(input, { ...position, canSelectMany: true, matchOnDescription: true, ignoreFocusOut: true });
  input.items = items;
  input.selectedItems = checked ?? [];
  input.placeholder = placeholder(checked ?? []);
  return shown<readonly T[] | typeof OTHER>(
    input,
    position,
    resolve => [
      input.onDidChangeSelection(now => {
        input.placeholder = placeholder(now);
      }),
      input.onDidTriggerButton(button => {
        if (button === other) {
          resolve(OTHER);
        }
      }),
      input.onDidAccept(() => {
        if (checked || input.selectedItems.length > 0) {
          resolve(input.selectedItems);
        }
      }),
    ],
    [other],
  );
}

export interface TextOptions {
  readonly position: Position;
  readonly value: string;
  readonly prompt: string;
  readonly placeholder?: string;
  /** Looked at as it is typed; only an error keeps the answer from being taken. */
  readonly validate: (text: string) => Promise<vscode.InputBoxValidationMessage | undefined>;
  /** A button that changes something beside the text; it returns how it and the prompt look then. */
  readonly toggle?: { readonly button: vscode.QuickInputButton; readonly prompt: string; readonly press: () => { button: vscode.QuickInputButton; prompt: string } };
}

/** A line of text. */
export async function askText({ position, value, prompt, placeholder, validate, toggle }: TextOptions): Promise<Answer<string>> {
  const input = vscode.window.createInputBox();
  Object.assign(input, { ...position, value, prompt: toggle?.prompt ?? prompt, placeholder, ignoreFocusOut: true });
  let button = toggle?.button;
  let asked = 0;
  const check = async () => {
    const mine = ++asked;
    const found = await validate(input.value.trim());
    if (mine === asked) {
      input.validationMessage = found;
    }
    return found;
  };
  void check();
  return shown(
    input,
    position,
    resolve => [
      input.onDidChangeValue(() => void check()),
      input.onDidTriggerButton(pressed => {
        if (toggle && pressed === button) {
          const next = toggle.press();
          button = next.button;
          input.prompt = next.prompt;
          input.buttons = [...input.buttons.slice(0, -1), button];
        }
      }),
      input.onDidAccept(async () => {
        const text = input.value.trim();
        const found = await check();
        if (found?.severity !== vscode.InputBoxValidationSeverity.Error && text === input.value.trim()) {
          resolve(text);
        }
      }),
    ],
    button ? [button] : [],
  );
}

async function shown<T>(
  input: vscode.QuickPick<vscode.QuickPickItem> | vscode.InputBox,
  { step }: Position,
  listen: (resolve: (answer: Answer<T>) => void) => vscode.Disposable[],
  buttons: readonly vscode.QuickInputButton[] = [],
): Promise<Answer<T>> {
  const subscriptions: { dispose(): void }[] = [input];
  try {
    return await new Promise<Answer<T>>(resolve => {
      input.buttons = [...(step > 1 ? [vscode.QuickInputButtons.Back] : []), ...buttons];
      subscriptions.push(
        ...listen(resolve),
        input.onDidTriggerButton(button => {
          if (button === vscode.QuickInputButtons.Back) {
            resolve(BACK);
          }
        }),
        input.onDidHide(() => resolve(undefined)),
      );
      input.show();
    });
  } finally {
    subscriptions.forEach(subscription => subscription.dispose());
  }
}
