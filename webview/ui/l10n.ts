/** Words of the views, with the placeholders of `vscode.l10n.t`. */
export function t(message: string, ...values: readonly (string | number)[]): string {
  return message.replace(/\{(\d+)\}/g, (whole, index: string) => String(values[Number(index)] ?? whole));
}
