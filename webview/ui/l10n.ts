/** Words of the pages: the same placeholders as `vscode.l10n.t`. */
export function t(message: string, ...values: readonly (string | number)[]): string {
  return message.replace(/\{(\d+)\}/g, (placeholder, index: string) => String(values[Number(index)] ?? placeholder));
}
