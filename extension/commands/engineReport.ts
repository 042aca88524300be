/** The report of “Check Engine”: plain text, for a person. */
import * as vscode from 'vscode';
import type { Environment, Missing, Source } from '../engine/find.ts';
import type { Doctor } from '../protocol/types.ts';
import { formatBytes } from '../runs/format.ts';

export function engineReport(found: Doctor, environment: Environment): string {
  const rows: readonly (readonly [string, string])[] = [
    [vscode.l10n.t('Engine'), found.engine],
    [vscode.l10n.t('Python'), found.python_version],
    [vscode.l10n.t('Interpreter'), found.python],
    [vscode.l10n.t('Source'), sourceText(environment.source)],
    ['torch', found.torch ?? vscode.l10n.t('missing')],
    ['transformers', found.transformers ?? vscode.l10n.t('missing')],
    [vscode.l10n.t('Device'), `${found.device} · ${found.device_name}`],
    [found.device === 'cpu' ? vscode.l10n.t('Memory') : vscode.l10n.t('Device memory'), vscode.l10n.t('{0} free of {1}', formatBytes(found.memory), formatBytes(found.memory_total))],
    ...(found.device === 'cpu' ? [] : [[vscode.l10n.t('Main memory'), vscode.l10n.t('{0} free', formatBytes(found.host_memory))] as const]),
    [vscode.l10n.t('Disk'), vscode.l10n.t('{0} free here', formatBytes(found.disk))],
  ];
  const verdict =
    found.problems.length === 0
      ? vscode.l10n.t('Everything that the engine needs is here.')
      : found.problems.length === 1
        ? vscode.l10n.t('1 problem was found.')
        : vscode.l10n.t('{0} problems were found.', found.problems.length);
  const problems = found.problems.map(({ message, remedy }, i) => `${i + 1}. ${message}\n   ${vscode.l10n.t('What to do: {0}', remedy)}`);
  return document([title(), verdict, table(rows), ...problems]);
}

export function missingReport(missing: Missing): string {
  const rows = missing.tried.map(({ source, candidate, reason }) => `- ${source === 'path' ? candidate : `${sourceText(source)}: ${candidate}`}\n  ${reason}`);
  return document([
    title(),
    vscode.l10n.t('No Python that can run the engine was found.'),
    vscode.l10n.t('What was tried:'),
    ...rows,
    vscode.l10n.t('What to do: run “Bondwise: Set Up Engine”, or name an interpreter that has the packages in the setting bondwise.python.'),
  ]);
}

/** Paragraphs with lines of at most 80 characters; what goes on from a line keeps its indentation. */
function document(paragraphs: readonly string[]): string {
  return paragraphs.flatMap(paragraph => [...paragraph.split('\n').map(wrapped), '']).join('\n');
}

function wrapped(line: string): string {
  const indentation = /^[ \d.-]*/.exec(line)?.[0].length ?? 0;
  return line.replace(/(.{1,80})(?: +|$)/g, '$1\n').trimEnd().replaceAll('\n', `\n${' '.repeat(indentation)}`);
}

function title(): string {
  return vscode.l10n.t('Bondwise engine check, {0}', new Date().toLocaleString(vscode.env.language));
}

function sourceText(source: Source): string {
  switch (source) {
    case 'setting':
      return vscode.l10n.t('from the setting bondwise.python');
    case 'bondwise':
      return vscode.l10n.t('Bondwise’s own environment');
    case 'python-extension':
      return vscode.l10n.t('chosen in the Python extension');
    case 'path':
      return vscode.l10n.t('from PATH');
  }
}

function table(rows: readonly (readonly [string, string])[]): string {
  const width = Math.max(...rows.map(([name]) => name.length));
  return rows.map(([name, value]) => `${name.padEnd(width)}  ${value}`).join('\n');
}
