/** Numbers as a person reads them, with a decimal point in every language, as they are typed. Decimal units: 1 kB is 1000 bytes. */
import { displayLanguage } from '../l10n/text.ts';

/** `0 B`, `999 B`, `1.5 kB`, `135 MB`, `2.9 GB`. */
export function formatBytes(bytes: number): string {
  return bytes < 1000 ? `${Math.round(bytes)} B` : scaled(bytes, ['B', 'kB', 'MB', 'GB', 'TB', 'PB']);
}

/** `576`, `12.3 K`, `135 M`, `1.1 B`. */
export function formatParameters(count: number): string {
  return count < 1000 ? `${Math.round(count)}` : scaled(count, ['', 'K', 'M', 'B', 'T']);
}

/** `< 0.1 s`, `0.4 s`, `6 s`, `1 min 5 s`, `2 h 3 min`, `3 d 4 h`. */
export function formatDuration(seconds: number): string {
  if (seconds > 0 && seconds < 0.05) {
    return '< 0.1 s';
  }
  if (seconds < 0.95) {
    return `${Math.max(0, seconds).toFixed(1)} s`;
  }
  const whole = Math.round(seconds);
  if (whole < 60) {
    return `${whole} s`;
  }
  if (whole < 3600) {
    return pair(Math.floor(whole / 60), 'min', whole % 60, 's');
  }
  const minutes = Math.round(seconds / 60);
  if (minutes < 24 * 60) {
    return pair(Math.floor(minutes / 60), 'h', minutes % 60, 'min');
  }
  const hours = Math.round(seconds / 3600);
  return pair(Math.floor(hours / 24), 'd', hours % 24, 'h');
}

/** A fraction as `43%`, below ten percent with one digit more (`4.3%`), below 0.1% as `< 0.1%`. */
export function formatPercent(fraction: number): string {
  const percent = fraction * 100;
  if (percent > 0 && percent < 0.1) {
    return '< 0.1%';
  }
  const digits = percent === 0 || Math.abs(percent) >= 9.95 ? 0 : 1;
  return `${percent.toFixed(digits)}%`;
}

/** Three significant digits at most, without exponent: `3.1`, `0.042`, `1 234`. */
export function formatNumber(value: number): string {
  return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString('en').replaceAll(',', '\u202f') : String(Number(value.toPrecision(3)));
}

/** In full: `1,234`, and `1 234` where a comma would be a decimal one. */
export function formatCount(count: number): string {
  const text = count.toLocaleString('en');
  return displayLanguage() === 'en' ? text : text.replaceAll(',', '\u202f');
}

function scaled(value: number, units: readonly string[]): string {
  let amount = value;
  let unit = 0;
  // 999.5 would print as 1000: one unit more.
  while (amount >= 999.5 && unit < units.length - 1) {
    amount /= 1000;
    unit += 1;
  }
  return `${amount < 9.95 && unit > 0 ? amount.toFixed(1) : Math.round(amount)} ${units[unit] ?? ''}`.trimEnd();
}

function pair(large: number, largeUnit: string, small: number, smallUnit: string): string {
  return small === 0 ? `${large} ${largeUnit}` : `${large} ${largeUnit} ${small} ${smallUnit}`;
}
