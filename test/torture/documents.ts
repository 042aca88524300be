/** Documents that follow a schema of the protocol, or nearly: what a hostile or a damaged file looks like. */
import schema from '../../extension/protocol/schema.json' with { type: 'json' };
import { Random } from './random.ts';

type Json = null | boolean | number | string | Json[] | { [key: string]: Json };
interface Shape {
  readonly $ref?: string;
  readonly anyOf?: readonly Shape[];
  readonly oneOf?: readonly Shape[];
  readonly enum?: readonly Json[];
  readonly const?: Json;
  readonly type?: string;
  readonly properties?: Readonly<Record<string, Shape>>;
  readonly required?: readonly string[];
  readonly items?: Shape;
  readonly additionalProperties?: boolean | Shape;
  readonly minimum?: number;
  readonly exclusiveMinimum?: number;
  readonly maximum?: number;
  readonly minItems?: number;
}

const definitions = schema.$defs as unknown as Readonly<Record<string, Shape>>;
/** Names repeat, so that parts of a document refer to each other as in real ones. */
const NAMES = ['model.layers.0.mlp.up_proj', 'model.layers.1.mlp.up_proj', 'model.layers.0.self_attn.q_proj', 'loss', 'kl', '../model', 'out', '*', 're:.*', 're:(a+)+$', 'builtin'] as const;
const HOSTILE = [
  '', '\0', '../../../../etc/passwd', '/dev/zero', '__proto__', 'constructor', '\u001b[2J\u001b]0;x\u0007', '<img src=x onerror=alert(1)>', '[a](command:workbench.action.quit)', '\u202egnp.exe', '\ud800', '${7*7}',
  '${env:HOME}', 'a'.repeat(5000), '\n\r\u2028', '1e999', '-0', 'NaN', '; rm -rf ~', '%00', 're:(((', '[', '**/'.repeat(50), '٣', 'ﷺ',
] as const;
const NUMBERS = [0, -0, 1, -1, 0.5, 1e-320, 1e308, -1e308, 2 ** 31, 2 ** 53, 2 ** 53 + 2, 1e21, 2 ** 64, -(2 ** 63), 3.5, 255, 65536] as const;
const DEEPEST = 7;

export class Documents {
  readonly random: Random;

  constructor(random: Random) {
    this.random = random;
  }

  /** A document of the schema's definition `name`; `hostile` of its values are what nobody would write. */
  make(name: string, hostile: number): Json {
    return this.#value(definitions[name] ?? {}, hostile, 0);
  }

  /** As text, which may be cut, doubled or overwritten in places. */
  text(document: Json, broken: boolean): string {
    const { random } = this;
    let text = JSON.stringify(document, undefined, random.chance(0.3) ? 1 : undefined);
    for (let change = broken ? 1 + random.below(3) : 0; change > 0; change--) {
      const at = random.below(text.length + 1);
      switch (random.below(7)) {
        case 0:
          text = text.slice(0, at);
          break;
        case 1:
          text = text.slice(0, at) + text.slice(at + random.below(20));
          break;
        case 2:
          text = text.slice(0, at + random.below(200)) + text.slice(at);
          break;
        case 3:
          text = text.slice(0, at) + random.pick(['{', '}', '[', ']', ',', ':', '"', '\\', '\0', '//', '/*', '\ufeff', '\u2028'] as const) + text.slice(at);
          break;
        case 4:
          text = text.replace(/-?\d[\d.e+-]*/, random.pick(['1e400', '-1e400', 'NaN', 'Infinity', '9'.repeat(400), '9'.repeat(5000), '01', '1.', '0x10'] as const));
          break;
        case 5: {
          const depth = random.pick<number>([10, 500, 100_000]);
          text = text.slice(0, at) + '['.repeat(depth) + text.slice(at);
          break;
        }
        default:
          text = text.replace(/:(true|false|null|\d+)/, `:${'{"a":'.repeat(2000)}1${'}'.repeat(2000)}`);
      }
    }
    return text;
  }

  #value(shape: Shape, hostile: number, depth: number): Json {
    const { random } = this;
    if (random.chance(hostile / 4)) return this.#anything(depth);
    if (shape.$ref !== undefined) return this.#value(definitions[shape.$ref.slice('#/$defs/'.length)] ?? {}, hostile, depth);
    const choices = shape.anyOf ?? shape.oneOf;
    if (choices) return this.#value(random.pick(choices) ?? {}, hostile, depth);
    if (shape.const !== undefined) return shape.const;
    if (shape.enum) return random.pick(shape.enum) ?? null;
    switch (shape.type) {
      case 'object':
        return this.#object(shape, hostile, depth);
      case 'array': {
        const length = depth > DEEPEST ? (shape.minItems ?? 0) : (shape.minItems ?? 0) + random.below(4);
        return Array.from({ length }, () => this.#value(shape.items ?? {}, hostile, depth + 1));
      }
      case 'string':
        return random.chance(hostile) ? random.pick(HOSTILE) : random.pick(NAMES);
      case 'boolean':
        return random.chance(0.5);
      case 'integer':
      case 'number': {
        if (random.chance(hostile)) return random.pick(NUMBERS);
        const least = shape.minimum ?? (shape.exclusiveMinimum === undefined ? 1 : shape.exclusiveMinimum + 1e-3);
        const most = Math.min(shape.maximum ?? least + 12, least + 12);
        const value = least + random.next() * (most - least);
        return shape.type === 'integer' ? Math.ceil(value) : value;
      }
      case 'null':
        return null;
      default:
        return random.pick(NAMES);
    }
  }

  #object(shape: Shape, hostile: number, depth: number): Json {
    const { random } = this;
    const made: Record<string, Json> = {};
    for (const [key, value] of Object.entries(shape.properties ?? {})) {
      const isNeeded = shape.required?.includes(key) === true;
      if (isNeeded ? !random.chance(hostile / 10) : random.chance(depth > DEEPEST ? 0.05 : 0.6)) made[key] = this.#value(value, hostile, depth + 1);
    }
    if (typeof shape.additionalProperties === 'object') {
      for (let i = random.below(3); i > 0; i--) made[random.chance(hostile) ? random.pick(HOSTILE) : random.pick(NAMES)] = this.#value(shape.additionalProperties, hostile, depth + 1);
    }
    if (random.chance(hostile / 4)) made[random.pick(HOSTILE)] = this.#anything(depth);
    return made;
  }

  #anything(depth: number): Json {
    const { random } = this;
    const simple: readonly Json[] = [null, true, random.pick(HOSTILE), random.pick(NUMBERS), [], {}, '', 0];
    return random.chance(0.2) && depth < DEEPEST ? [this.#anything(depth + 1), this.#anything(depth + 1)] : (random.pick(simple) ?? null);
  }
}
