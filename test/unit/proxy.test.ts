import { createHash, randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, request, type IncomingHttpHeaders, type Server } from 'node:http';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { openProxy, type Proxy } from '../../extension/scripts/proxy.ts';

interface Reply {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
}

let directory: string;
let behind: Server;
let proxy: Proxy;
/** What reached the server behind. */
let seen: { url: string; headers: IncomingHttpHeaders; body: string }[];

beforeEach(async () => {
  directory = await mkdtemp(path.join(tmpdir(), 'proxy-'));
  seen = [];
  behind = createServer((message, reply) => {
    let body = '';
    message.on('data', (chunk: Buffer) => (body += chunk.toString()));
    message.on('end', () => {
      seen.push({ url: message.url ?? '', headers: message.headers, body });
      reply.setHeader('Set-Cookie', ['a=1', 'b=2']);
      reply.writeHead(201);
      reply.end(`behind got ${message.method ?? ''} ${body}`);
    });
  });
  behind.on('upgrade', (message, socket) => {
    seen.push({ url: message.url ?? '', headers: message.headers, body: '' });
    const accept = createHash('sha1').update(`${message.headers['sec-websocket-key'] ?? ''}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64');
    socket.write(`HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\n\r\n`);
    socket.pipe(socket);
  });
  const file = path.join(directory, 'socket');
  await new Promise<void>((resolve) => behind.listen(file, resolve));
  proxy = await openProxy({ socket: file, landing: '/?folder=%2Fdemo' });
});

afterEach(async () => {
  await proxy.close();
  behind.closeAllConnections();
  await new Promise((resolve) => behind.close(resolve));
  await rm(directory, { recursive: true });
});

function ask(url: string, headers: Record<string, string> = {}, body = '', method = body === '' ? 'GET' : 'POST'): Promise<Reply> {
  return new Promise((resolve, reject) => {
    const message = request(new URL(url, `http://127.0.0.1:${proxy.port}`), { method, headers }, (reply) => {
      let text = '';
      reply.on('data', (chunk: Buffer) => (text += chunk.toString()));
      reply.on('end', () => resolve({ status: reply.statusCode ?? 0, headers: reply.headers, body: text }));
    });
    message.on('error', reject);
    message.end(body);
  });
}

/** Enters as a browser would and returns the cookie header of the session. */
async function enter(): Promise<string> {
  const reply = await ask(proxy.url);
  return (reply.headers['set-cookie']?.[0] ?? '').split(';')[0] ?? '';
}

/** Asks for a WebSocket and returns the status line, then what comes back for `ping`. */
function upgrade(headers: Record<string, string>): Promise<{ status: string; echo: string }> {
  return new Promise((resolve, reject) => {
    const socket = connect(proxy.port, '127.0.0.1');
    let received = '';
    const lines = Object.entries({
      'Host': `127.0.0.1:${proxy.port}`,
      'Connection': 'Upgrade',
      'Upgrade': 'websocket',
      'Sec-WebSocket-Version': '13',
      'Sec-WebSocket-Key': randomBytes(16).toString('base64'),
      ...headers,
    }).map(([name, value]) => `${name}: ${value}`);
    socket.write(`GET /socket?x=1 HTTP/1.1\r\n${lines.join('\r\n')}\r\n\r\n`);
    socket.on('data', (chunk) => {
      const had = received.includes('\r\n\r\n');
      received += chunk.toString();
      if (!had && received.startsWith('HTTP/1.1 101') && received.includes('\r\n\r\n')) {
        socket.write('ping');
      }
      if (received.endsWith('ping')) {
        socket.end();
      }
    });
    socket.on('close', () => resolve({ status: received.split('\r\n')[0] ?? '', echo: received.split('\r\n\r\n')[1] ?? '' }));
    socket.on('error', reject);
  });
}

describe('the token', () => {
  test('opens once, sets a strict cookie and leads to the workspace', async () => {
    const first = await ask(proxy.url);
    expect(first.status).toBe(302);
    expect(first.headers.location).toBe('/?folder=%2Fdemo');
    expect(first.headers['set-cookie']?.[0]).toMatch(/^bondwise-\d+=[\w-]{43}; Path=\/; HttpOnly; SameSite=Strict$/);
    const second = await ask(proxy.url);
    expect(second.status).toBe(403);
    expect(second.headers['set-cookie']).toBeUndefined();
    expect(seen).toEqual([]);
  });

  test.each(['/', '/?token=', '/?token=wrong', '/healthz'])('%s without the right token is refused and spends nothing', async (url) => {
    expect((await ask(url)).status).toBe(403);
    expect((await ask(proxy.url)).status).toBe(302);
    expect(seen).toEqual([]);
  });

  test('is not taken at another path, by another method or another host', async () => {
    const token = new URL(proxy.url).search;
    expect((await ask(`/login${token}`)).status).toBe(403);
    expect((await ask(`/${token}`, {}, '', 'HEAD')).status).toBe(403);
    expect((await ask(`/${token}`, { Host: `evil.example:${proxy.port}` })).status).toBe(403);
    expect((await ask(proxy.url)).status).toBe(302);
  });
});

describe('with a session', () => {
  test('requests pass in full, and the server behind does not see the session', async () => {
    const cookie = await enter();
    const reply = await ask('/path?q=1', { Cookie: `theirs=1; ${cookie}; more=2` }, 'a body');
    expect(reply).toMatchObject({ status: 201, body: 'behind got POST a body' });
    expect(reply.headers['set-cookie']).toEqual(['a=1', 'b=2']);
    expect(seen).toHaveLength(1);
    expect(seen[0]).toMatchObject({ url: '/path?q=1', body: 'a body' });
    expect(seen[0]?.headers.cookie).toBe('theirs=1; more=2');
  });

  test('WebSockets pass both ways', async () => {
    const cookie = await enter();
    const { status, echo } = await upgrade({ Cookie: cookie, Origin: `http://127.0.0.1:${proxy.port}` });
    expect(status).toBe('HTTP/1.1 101 Switching Protocols');
    expect(echo).toBe('ping');
    expect(seen[0]).toMatchObject({ url: '/socket?x=1' });
    expect(seen[0]?.headers.cookie).toBeUndefined();
  });

  test('a foreign host or origin is refused all the same', async () => {
    const cookie = await enter();
    expect((await ask('/', { Cookie: cookie, Host: 'rebound.example' })).status).toBe(403);
    expect((await ask('/', { Cookie: cookie, Origin: 'http://127.0.0.1:1' })).status).toBe(403);
    expect((await upgrade({ Cookie: cookie, Origin: 'http://localhost:1' })).status).toMatch(/ 403 /);
    expect(seen).toEqual([]);
  });

  test('a server that went away is said so', async () => {
    const cookie = await enter();
    behind.closeAllConnections();
    await new Promise((resolve) => behind.close(resolve));
    const reply = await ask('/', { Cookie: cookie });
    expect(reply.status).toBe(502);
    expect(reply.body).toContain('does not answer');
  });
});

test('WebSockets without a session are refused', async () => {
  expect((await upgrade({})).status).toMatch(/ 403 /);
  expect((await upgrade({ Cookie: `bondwise-${proxy.port}=wrong` })).status).toMatch(/ 403 /);
  expect(seen).toEqual([]);
});

test('listens on the loopback only', async () => {
  const refused = await new Promise((resolve) => {
    const socket = connect(proxy.port, '127.0.0.2');
    socket.on('connect', () => resolve('connected'));
    socket.on('error', (error: NodeJS.ErrnoException) => resolve(error.code));
  });
  expect(refused).toBe('ECONNREFUSED');
});
