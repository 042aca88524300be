/** The colours of the editor's theme, for what is drawn and not styled; they change while a view is open. */

export interface Theme {
  readonly dark: boolean;
  /** A high-contrast theme: borders instead of shades. */
  readonly contrast: boolean;
  readonly background: string;
  readonly foreground: string;
  readonly muted: string;
  readonly border: string;
  readonly focus: string;
  readonly font: string;
}

export function readTheme(): Theme {
  const style = getComputedStyle(document.body);
  const value = (fallback: string, ...names: readonly string[]) => names.map(name => style.getPropertyValue(`--vscode-${name}`).trim()).find(Boolean) ?? fallback;
  const { classList } = document.body;
  const dark = classList.contains('vscode-dark') || (classList.contains('vscode-high-contrast') && !classList.contains('vscode-high-contrast-light'));
  const foreground = value(dark ? '#cccccc' : '#3b3b3b', 'foreground');
  return {
    dark,
    contrast: classList.contains('vscode-high-contrast') || classList.contains('vscode-high-contrast-light'),
    background: value(dark ? '#1f1f1f' : '#ffffff', 'editor-background'),
    foreground,
    muted: value(foreground, 'descriptionForeground'),
    border: value(foreground, 'contrastBorder', 'widget-border', 'panel-border'),
    focus: value(foreground, 'focusBorder'),
    font: value('sans-serif', 'font-family'),
  };
}

/** Calls `redraw` after each change of the theme, once for the many changes that one makes. */
export function onThemeChange(redraw: () => void): void {
  let asked = false;
  const observer = new MutationObserver(() => {
    if (!asked) {
      asked = true;
      requestAnimationFrame(() => {
        asked = false;
        redraw();
      });
    }
  });
  // VS Code sets the variables on the root element and the kind on the body.
  observer.observe(document.documentElement, { attributes: true, attributeFilter: ['style', 'class'] });
  observer.observe(document.body, { attributes: true, attributeFilter: ['class', 'style', 'data-vscode-theme-id'] });
}
