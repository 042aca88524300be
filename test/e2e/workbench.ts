/**
 * Page object of the VS Code workbench (Code 1.139): one Workbench is one window. All helpers wait by themselves.
 * Nothing here knows Bondwise.
 */
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { chromium, type Browser, type Frame, type Locator, type Page } from 'playwright-core';
import { provisionBrowser } from '../../extension/scripts/provision.ts';
import type { Server } from './server.ts';

export interface WindowOptions {
  /** Added to the address, such as `&payload=…`. */
  readonly query?: string;
  /** False: return as soon as the page is asked for. */
  readonly ready?: boolean;
  /** Runs before the page is asked for. */
  readonly prepare?: (page: Page) => Promise<void>;
}

const themes = {
  dark: { id: 'Default Dark Modern', marker: 'vs-dark' },
  light: { id: 'Default Light Modern', marker: 'vs' },
  contrast: { id: 'Default High Contrast', marker: 'hc-black' },
} as const;

export type Theme = keyof typeof themes;

const KINDS = [
  { theme: 'light', marker: 'vs', kind: 'vscode-light', light: true, contrast: false },
  { theme: 'high contrast light', marker: 'hc-light', kind: 'vscode-high-contrast-light', light: true, contrast: true },
  { theme: 'high contrast', marker: 'hc-black', kind: 'vscode-high-contrast', light: false, contrast: true },
  { theme: 'dark', marker: 'vs-dark', kind: 'vscode-dark', light: false, contrast: false },
] as const;

export class Workbench {
  readonly page: Page;
  /** Page errors and Content Security Policy violations so far. */
  readonly problems: string[] = [];
  readonly #browser: Browser;

  private constructor(page: Page, browser: Browser) {
    this.page = page;
    this.#browser = browser;
    page.setDefaultTimeout(60_000);
    page.on('pageerror', (error) => this.problems.push(`page error: ${error.message}`));
    page.on('console', (message) => {
      if (message.type() === 'error' && /Content Security Policy|violates/i.test(message.text())) {
        this.problems.push(message.text());
      }
    });
  }

  static async open(server: Server, options: WindowOptions = {}): Promise<Workbench> {
    return Workbench.openAt(`http://${server.authority}/?folder=${encodeURIComponent(server.folder)}${options.query ?? ''}`, options);
  }

  /** Opens a window at an address, in a browser that can reach nothing but the loopback. */
  static async openAt(url: string, options: WindowOptions = {}): Promise<Workbench> {
    const browser = await chromium.launch({
      executablePath: await provisionBrowser(),
      args: [
        '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
        '--disable-component-update', '--disable-sync', '--disable-dev-shm-usage', '--disable-extensions',
        '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1',
      ],
    });
    const context = await browser.newContext({
      viewport: { width: 1280, height: 800 },
      reducedMotion: 'reduce',
      colorScheme: 'dark',
      permissions: ['clipboard-read', 'clipboard-write'],
    });
    const workbench = new Workbench(await context.newPage(), browser);
    try {
      await options.prepare?.(workbench.page);
      await workbench.page.goto(url, { waitUntil: 'commit' });
      if (options.ready !== false) {
        await workbench.ready();
      }
    } catch (error) {
      await workbench.close();
      throw error;
    }
    return workbench;
  }

  async close(): Promise<void> {
    await this.#browser.close();
  }

  /** Waits until the layout is restored. Contributions of extensions come seconds later; openContainer() and runCommand() wait for those. */
  async ready(): Promise<void> {
    await this.page.locator('.monaco-workbench').waitFor({ timeout: 60_000 });
    await this.page.locator('.statusbar-item[id="status.host"]').waitFor({ timeout: 60_000 });
  }

  /** As a user does: the extension host of this window ends, a new one starts, and what the window remembers is written before. */
  async reload(): Promise<void> {
    const loaded = this.page.waitForEvent('load');
    await this.runCommand('Developer: Reload Window');
    await loaded;
    await this.ready();
  }

  /** Writes a screenshot to the folder that E2E_SHOTS names, if any. */
  async shot(name: string): Promise<void> {
    const folder = process.env.E2E_SHOTS;
    if (folder !== undefined) {
      await mkdir(folder, { recursive: true });
      await this.page.screenshot({ path: path.join(folder, `${name}.png`) });
    }
  }

  /**
   * Screenshots of what stands there now, open dialogs included, in every theme; where E2E_SHOTS asks for them. The window follows what
   * the browser says of the system's colors, until setTheme() has been called.
   */
  async shotInThemes(name: string): Promise<void> {
    if (process.env.E2E_SHOTS === undefined) {
      return;
    }
    for (const theme of ['light', 'contrast', 'dark'] as const) {
      await this.page.emulateMedia({ colorScheme: theme === 'light' ? 'light' : 'dark', forcedColors: theme === 'contrast' ? 'active' : 'none' });
      await this.page.locator(`.monaco-workbench.${themes[theme].marker}`).waitFor();
      // The theme's colors are to be seen, not the system's.
      const style = await this.page.addStyleTag({ content: 'html { forced-color-adjust: none }' });
      await this.shot(`${name}-${theme}`);
      await style.evaluate((element) => (element as unknown as { remove(): void }).remove());
    }
  }

  /**
   * Does something in each kind of theme, as the browser says of the system's colors; dark comes last and stays.
   * @param act gets the class that VS Code gives the body of a webview.
   */
  async inThemes(act: (theme: string, kind: string) => Promise<void>): Promise<void> {
    for (const { theme, marker, kind, light, contrast } of KINDS) {
      await this.page.emulateMedia({ colorScheme: light ? 'light' : 'dark', forcedColors: contrast ? 'active' : 'none' });
      await this.page.locator(`.monaco-workbench.${marker}`).waitFor();
      await act(theme, kind);
    }
  }

  // --- views ---------------------------------------------------------------------------------------------------------------------

  /**
   * Shows a view container by its Activity Bar icon. A click on the icon of the one that is shown hides it, and after a reload the Side
   * Bar is restored late: so the outcome is looked at after each click.
   */
  async openContainer(title: string): Promise<void> {
    const icon = this.page.locator(`.part.activitybar .action-item a.action-label[aria-label^="${title}"]`);
    await icon.waitFor();
    const shown = this.page.locator('.part.sidebar .composite.title', { hasText: title });
    for (let attempt = 0; ; attempt += 1) {
      try {
        await shown.waitFor({ timeout: 3000 });
        return;
      } catch (error) {
        if (attempt === 10) {
          throw error;
        }
        // Its parent, because a badge may lie over the icon.
        await icon.locator('..').click();
      }
    }
  }

  /** A view of the open container, by its title. */
  view(title: string): Locator {
    return this.page.locator('.part.sidebar .pane').filter({ has: this.page.locator('.pane-header h3.title', { hasText: exactly(title) }) });
  }

  /** A row of a tree, by its visible label. Lists are virtual: a row scrolled out of view is not in the page. */
  row(view: Locator, label: string | RegExp): Locator {
    const text = typeof label === 'string' ? exactly(label) : label;
    return view.locator('.monaco-list-row[role="treeitem"]').filter({ has: this.page.locator('.label-name', { hasText: text }) });
  }

  async expand(row: Locator): Promise<void> {
    await row.waitFor();
    if ((await row.getAttribute('aria-expanded')) === 'false') {
      await row.locator('.monaco-tl-twistie').click();
    }
    await row.and(this.page.locator('[aria-expanded="true"]')).waitFor();
  }

  /**
   * Pages through a list by the keyboard, from its top down and over again while rows still come, until a row is in sight. A list that is
   * scrolled meanwhile, by a selection that is revealed in it, is paged through once more.
   */
  async scrollTo(view: Locator, row: Locator): Promise<void> {
    const list = view.locator('.monaco-list').first();
    await list.waitFor();
    const seen = (timeout: number): Promise<boolean> => row.scrollIntoViewIfNeeded({ timeout }).then(() => true, () => false);
    let found = await seen(1000);
    for (const deadline = Date.now() + 60_000; !found && Date.now() < deadline; ) {
      await list.focus();
      await this.page.keyboard.press('Home');
      found = await seen(500);
      for (let step = 0; step < 10 && !found; step += 1) {
        await this.page.keyboard.press('PageDown');
        found = await seen(200);
      }
    }
    await row.scrollIntoViewIfNeeded();
  }

  /** Opens a row's tooltip by the keyboard, and returns its text. One that is being drawn anew loses it: it is asked for again. */
  async hover(row: Locator): Promise<string> {
    const hover = this.page.locator('.monaco-hover').filter({ hasNotText: 'Loading...' });
    for (let attempt = 0; ; attempt += 1) {
      await row.click();
      await this.page.keyboard.press('Control+k');
      await this.page.keyboard.press('Control+i');
      try {
        return plain(await hover.innerText({ timeout: 4000 }));
      } catch (error) {
        if (attempt === 5) {
          throw error;
        }
        await this.page.keyboard.press('Escape');
      }
    }
  }

  // --- menus ---------------------------------------------------------------------------------------------------------------------

  /**
   * Asks a question by an entry of a context menu, and waits for its first answer in the list. Asked again when it does not come: a row that
   * VS Code reads anew at the moment of the click is none.
   */
  async contextQuestion(target: Locator, entry: string, answer: string, shot?: string): Promise<Locator> {
    const row = this.pickRow(answer);
    for (let attempt = 0; ; attempt += 1) {
      await this.contextMenu(target, entry, shot);
      try {
        await row.waitFor({ timeout: 15_000 });
        return row;
      } catch (error) {
        if (attempt === 2) {
          throw error;
        }
        await this.page.keyboard.press('Escape');
        await this.quickInput().waitFor({ state: 'hidden' });
      }
    }
  }

  /** Right-clicks a target and clicks an entry of the context menu. `shot` names a screenshot of the open menu. */
  async contextMenu(target: Locator, entry: string, shot?: string): Promise<void> {
    const item = this.menuItem(entry);
    for (let attempt = 0; ; attempt += 1) {
      await target.click({ button: 'right' });
      try {
        await item.waitFor({ timeout: 4000 });
        break;
      } catch (error) {
        if (attempt === 2) {
          throw error;
        }
        await this.page.keyboard.press('Escape');
      }
    }
    // A menu ignores mouse-up for its first 100 ms; a timer that the page sets after that one fires after it.
    await this.page.waitForTimeout(150);
    if (shot !== undefined) {
      await this.shot(shot);
    }
    await item.click();
    await item.waitFor({ state: 'detached' });
  }

  menuItem(entry: string): Locator {
    return this.page.locator('.monaco-menu .action-item').filter({ has: this.page.locator('.action-label', { hasText: exactly(entry) }) });
  }

  // --- commands and quick input --------------------------------------------------------------------------------------------------

  quickInput(): Locator {
    return this.page.locator('.quick-input-widget:not([style*="display: none"])');
  }

  quickInputBox(): Locator {
    return this.quickInput().locator('.quick-input-box input');
  }

  /** A row of an open quick pick, by its label. */
  pickRow(label: string | RegExp): Locator {
    const text = typeof label === 'string' ? exactly(label) : label;
    return this.quickInput().locator('.quick-input-list .monaco-list-row').filter({ has: this.page.locator('.label-name', { hasText: text }) }).first();
  }

  /** Waits for the step of a quick input whose title holds the text. */
  async quickInputTitle(text: string | RegExp): Promise<void> {
    await this.quickInput().locator('.quick-input-title', { hasText: text }).waitFor();
  }

  /** Runs a command from the palette by its full title, such as "Bondwise: Check Engine". */
  async runCommand(title: string): Promise<void> {
    const row = this.pickRow(title);
    // The list is not refreshed when an extension registers late, and an editor that opens late takes the focus, which closes it: ask again.
    for (let attempt = 0; ; attempt += 1) {
      try {
        await this.page.keyboard.press('F1');
        await this.quickInputBox().fill(`>${title}`, { timeout: 5000 });
        await row.waitFor({ timeout: 2000 });
        await row.click({ timeout: 3000 });
        return;
      } catch (error) {
        if (attempt === 12) {
          throw error;
        }
        await this.page.keyboard.press('Escape');
        await this.quickInput().waitFor({ state: 'hidden' });
      }
    }
  }

  /** Answers the open input step. */
  async type(text: string): Promise<void> {
    await this.quickInputBox().fill(text);
    await this.quickInputBox().press('Enter');
  }

  // --- notifications, status bar, editors ----------------------------------------------------------------------------------------

  /** A toast; it hides by itself after about 15 s. */
  notification(text: string | RegExp): Locator {
    return this.page
      .locator('.notifications-toasts .monaco-list-row')
      .filter({ has: this.page.locator('.notification-list-item-message', { hasText: text }) })
      .first();
  }

  async clickNotification(text: string | RegExp, button: string): Promise<void> {
    await this.notification(text).locator('.notification-list-item-buttons-container a.monaco-button', { hasText: button }).click();
  }

  /** A modal dialog, by text in it. */
  dialog(text: string | RegExp): Locator {
    return this.page.locator('.monaco-dialog-box', { hasText: text });
  }

  /** Answers a modal dialog and waits until it is gone. */
  async answerDialog(text: string | RegExp, button: string): Promise<void> {
    const dialog = this.dialog(text);
    await dialog.getByRole('button', { name: button, exact: true }).click();
    await dialog.waitFor({ state: 'detached' });
  }

  statusBarItem(text: string | RegExp): Locator {
    return this.page.locator('.part.statusbar .statusbar-item', { hasText: text });
  }

  /** Text of the open editor, as far as it is drawn. */
  async editorText(): Promise<string> {
    return plain(await this.page.locator('.part.editor .view-lines').innerText());
  }

  tab(label: string | RegExp): Locator {
    return this.page.locator('.part.editor .tab', { hasText: label }).first();
  }

  /** Switches the color theme by the settings file, and reloads: the watcher of that file misses changes on a busy machine. */
  async setTheme(server: Server, theme: Theme): Promise<void> {
    await server.changeSettings({ 'workbench.colorTheme': themes[theme].id, 'window.autoDetectColorScheme': false });
    await this.reload();
    await this.page.locator(`.monaco-workbench.${themes[theme].marker}`).waitFor();
  }

  /**
   * The frame that holds a webview's own document, once it has an element that matches `ready`. VS Code nests two: iframe.webview and
   * inside it iframe#active-frame. The first floats over the editor, so the visible one is taken.
   */
  async webviewFrame(ready: string, timeout = 30_000): Promise<Frame> {
    const until = Date.now() + timeout;
    while (Date.now() < until) {
      for (const host of await this.page.locator('iframe.webview.ready').elementHandles()) {
        if (!(await host.isVisible().catch(() => false))) {
          continue;
        }
        const outer = await host.contentFrame().catch(() => null);
        const active = await outer?.$('iframe#active-frame').catch(() => null);
        const inner = await active?.contentFrame().catch(() => null);
        if (inner && (await inner.$(ready).catch(() => null))) {
          return inner;
        }
      }
      await this.page.waitForTimeout(100);
    }
    throw new Error(`no visible webview with ${ready}; frames: ${this.page.frames().map((frame) => frame.url().slice(0, 120)).join(' | ')}`);
  }
}

/** Editors and tooltips are drawn with spaces that do not break. */
function plain(text: string): string {
  return text.replaceAll('\u00a0', ' ');
}

export function exactly(text: string): RegExp {
  return new RegExp(`^\\s*${text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')}\\s*$`);
}
