/** Safetensors files that are nearly right: whole ones, broken in one to four places where a reader could stumble. */
import { DTYPE_BITS, type Dtype, isDtype } from '../../extension/safetensors-ts/src/index.ts';
import { Random } from './random.ts';

const DTYPES = Object.keys(DTYPE_BITS).filter(isDtype);
const NUMBERS = [
  '0', '1', '7', '8', '4294967295', '4294967296', '9007199254740991', '9007199254740992', '9007199254740993', '18446744073709551615', '18446744073709551616',
  '-1', '-0', '00', '01', '1.0', '1e0', '1E2', '1e400', '+1', '0x1', '.5', '1.', 'NaN', 'Infinity', 'true', 'null', '"1"', '[]', '{}', '1'.repeat(40),
] as const;
const STRINGS = [
  '"a"', '"\\u0061"', '"__metadata__"', '"\\u005f_metadata__"', '""', '"\\ud800"', '"\\udc00\\ud800"', '"\\ud83d\\ude00"', '"\\x41"', '"\\u00"', '"\\"', '"unended', '"\u0001"',
  '"\\u0000"', '"../x"', '"\u202e"', '"😀"', '"é"', '"e\u0301"', '"__proto__"', '"constructor"', '"toString"', '"dtype"', '"F32"', '"f32"', '"Q4_K"', '"F8_E5M2"', '"BOOL "',
] as const;
const KEYS = ['"dtype"', '"shape"', '"data_offsets"', '"Dtype"', '"extra"', '"__proto__"', '"\\u0064type"'] as const;
const SPACES = [' ', '\n', '\t', '\r', '\u000b', '\u00a0', '\ufeff', '\u2028', '\0', '/**/', '//\n'] as const;

export interface Raw {
  readonly header: Buffer;
  /** Bytes behind it. */
  readonly data: number;
  /** What the file says that the header's length is. */
  readonly length: bigint;
}

interface Entry {
  name: string;
  readonly fields: [string, string][];
}

/** One input of the corpus. */
export function makeHeader(seed: number): Raw {
  const random = new Random(seed);
  const { entries, data } = wholeEntries(random);
  let text: string | undefined;
  let bytes = data;
  const changes = random.chance(0.08) ? 0 : 1 + random.below(random.chance(0.2) ? 4 : 2);
  for (let change = 0; change < changes; change++) {
    if (text === undefined && random.chance(0.7)) {
      bytes += changeEntries(random, entries);
    } else {
      text = changeText(random, text ?? write(random, entries));
    }
  }
  text ??= write(random, entries);
  let header: Buffer = Buffer.from(text);
  if (random.chance(0.06)) header = changeBytes(random, header);
  if (random.chance(0.2)) header = Buffer.concat([header, Buffer.alloc((8 - (header.length % 8)) % 8, 0x20)]);
  const length = random.chance(0.04) ? random.pick<bigint>([0n, 1n, BigInt(header.length) + 1n, BigInt(header.length) - 1n, 100_000_001n, 2n ** 31n, 2n ** 63n, 2n ** 64n - 1n]) : BigInt(header.length);
  return { header, data: Math.max(0, bytes), length: length < 0n ? 0n : length };
}

function wholeEntries(random: Random): { entries: Entry[]; data: number } {
  const entries: Entry[] = [];
  let offset = 0;
  const count = random.chance(0.05) ? 20 : random.below(5);
  for (let i = 0; i < count; i++) {
    const dtype: Dtype = random.pick(DTYPES) ?? 'F32';
    const shape = Array.from({ length: random.below(4) }, () => random.pick<number>([0, 1, 2, 3, 4, 8]));
    if (DTYPE_BITS[dtype] < 8 && shape.length > 0) shape[0] = 4;
    if (DTYPE_BITS[dtype] < 8 && shape.length === 0) shape.push(8);
    const end = offset + (shape.reduce((product, dimension) => product * dimension, 1) * DTYPE_BITS[dtype]) / 8;
    entries.push({ name: JSON.stringify(`model.layers.${i}.weight`), fields: [['"dtype"', `"${dtype}"`], ['"shape"', `[${shape.join(',')}]`], ['"data_offsets"', `[${offset},${end}]`]] });
    offset = end;
  }
  if (random.chance(0.3)) entries.splice(random.below(entries.length + 1), 0, { name: '"__metadata__"', fields: [['"format"', '"pt"'], ...(random.chance(0.3) ? [['"note"', '"a\\nb"'] as [string, string]] : [])] });
  if (random.chance(0.2)) entries.reverse();
  return { entries, data: offset };
}

/** Changes the meaning, in valid JSON as a rule. Returns how many bytes of data come or go. */
function changeEntries(random: Random, entries: Entry[]): number {
  const entry = random.pick(entries);
  if (!entry) {
    entries.push({ name: random.pick(STRINGS), fields: [] });
    return 0;
  }
  const field = random.pick(entry.fields);
  switch (random.below(12)) {
    case 0:
      entry.name = random.pick(STRINGS);
      break;
    case 1:
      entry.name = random.pick(entries)?.name ?? '"a"';
      break;
    case 2:
      if (field) field[1] = random.pick([...NUMBERS, ...STRINGS] as [string, ...string[]]);
      break;
    case 3:
      if (field) field[0] = random.pick(KEYS);
      break;
    case 4:
      if (field) entry.fields.push([...field]);
      break;
    case 5:
      if (field) entry.fields.splice(entry.fields.indexOf(field), 1);
      break;
    case 6:
      entries.push({ name: entry.name, fields: entry.fields.map(pair => [...pair]) });
      break;
    case 7:
      entries.splice(entries.indexOf(entry), 1);
      break;
    case 8:
      return random.pick<number>([-8, -1, 1, 4, 8, 1024]);
    case 9:
      entry.fields.push([random.pick(KEYS), nested(random)]);
      break;
    case 10:
      entry.fields.reverse();
      break;
    default:
      if (field) field[1] = changeNumber(random, field[1]);
  }
  return 0;
}

function nested(random: Random): string {
  const depth = random.pick<number>([1, 3, 120, 124, 125, 126, 127, 128, 129, 200]);
  return random.chance(0.5) ? '['.repeat(depth) + ']'.repeat(depth) : `${'{"a":'.repeat(depth)}1${'}'.repeat(depth)}`;
}

function changeNumber(random: Random, text: string): string {
  const found = [...text.matchAll(/\d+/g)];
  const one = random.pick(found);
  if (!one) return random.pick(NUMBERS);
  const near = random.chance(0.5) ? String(Number(one[0]) + random.pick<number>([-1, 1, 2, 4, 8])) : random.pick(NUMBERS);
  return text.slice(0, one.index) + near + text.slice(one.index + one[0].length);
}

function write(random: Random, entries: readonly Entry[]): string {
  const space = (): string => (random.chance(0.01) ? random.pick(SPACES) : '');
  const spaced = random.chance(0.2);
  const gap = spaced ? ' ' : '';
  const asList = random.chance(0.01);
  const one = ({ name, fields }: Entry): string => {
    const value = asList && name !== '"__metadata__"' ? `[${fields.map(([, text]) => text).join(',')}]` : `{${fields.map(([key, text]) => `${key}:${gap}${text}${space()}`).join(`,${gap}`)}}`;
    return `${space()}${name}${space()}:${gap}${value}`;
  };
  return `${space()}{${entries.map(one).join(`,${gap}`)}${space()}}${space()}`;
}

function changeText(random: Random, text: string): string {
  const at = random.below(text.length + 1);
  const end = at + random.below(8);
  switch (random.below(6)) {
    case 0:
      return text.slice(0, at);
    case 1:
      return text.slice(0, at) + text.slice(end);
    case 2:
      return text.slice(0, at) + random.pick([...NUMBERS, ...STRINGS, ...SPACES] as [string, ...string[]]) + text.slice(at);
    case 3:
      return text.slice(0, at) + random.pick(['{', '}', '[', ']', ',', ':', '"', '\\'] as const) + text.slice(random.chance(0.5) ? at : at + 1);
    case 4:
      return text.slice(0, end) + text.slice(at);
    default:
      return changeNumber(random, text);
  }
}

function changeBytes(random: Random, bytes: Buffer): Buffer {
  const changed = Buffer.from(bytes);
  for (let i = 0; i <= random.below(3); i++) {
    if (changed.length > 0) changed[random.below(changed.length)] = random.below(256);
  }
  return changed;
}
