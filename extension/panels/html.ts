/** The document of a webview panel. */
import { randomBytes } from 'node:crypto';
import * as vscode from 'vscode';
import { displayLanguage } from '../l10n/text.ts';

/**
 * A document that runs one bundle of dist/webview and nothing else: no inline code, no eval, no network.
 * The toolkit adds a `<style>` of its own and takes the nonce for it from the `csp-nonce` tag.
 */
export function webviewHtml(webview: vscode.Webview, folder: vscode.Uri, bundle: string, title: string): string {
  const nonce = randomBytes(16).toString('base64');
  const script = webview.asWebviewUri(vscode.Uri.joinPath(folder, `${bundle}.js`)).toString();
  const style = webview.asWebviewUri(vscode.Uri.joinPath(folder, `${bundle}.css`)).toString();
  const policy = `default-src 'none'; script-src 'nonce-${nonce}'; style-src ${webview.cspSource} 'nonce-${nonce}'; font-src ${webview.cspSource}`;
  return `<!DOCTYPE html>
<html lang="${escapeHtml(displayLanguage())}">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${escapeHtml(policy)}">
<meta property="csp-nonce" content="${nonce}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escapeHtml(title)}</title>
<link rel="stylesheet" href="${escapeHtml(style)}">
</head>
<body>
<div id="root"></div>
${translations()}<script nonce="${nonce}" src="${escapeHtml(script)}"></script>
</body>
</html>`;
}

/** Data for webview/ui/l10n.ts. A block that is no script is not run, and so not asked for a nonce; `<` could end it. */
function translations(): string {
  const { bundle } = vscode.l10n;
  return bundle ? `<script type="application/json" id="l10n">${JSON.stringify(bundle).replaceAll('<', '\\u003c')}</script>\n` : '';
}

export function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, character => `&#${character.charCodeAt(0)};`);
}
