/**
 * The door to the served workbench. The workbench gives a shell to whoever reaches it, so it listens on a socket file that only its user
 * can open, and this proxy lets one browser through: an address with a one-time token is exchanged for a session cookie.
 *
 * What it refuses, and why: a request without the cookie (other users and programs of this machine); a token used before (an address
 * seen in a history or a screen share); a foreign Host header (DNS rebinding); a foreign Origin header (pages of other loopback ports
 * count as the same site for SameSite cookies, and WebSockets have no same-origin rule).
 */
import { randomBytes, timingSafeEqual } from 'node:crypto';
import { createServer, request, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from 'node:http';
import { connect, type Socket } from 'node:net';

export interface ProxyOptions {
  /** Socket file of the server behind. */
  readonly socket: string;
  /** Path that the browser is sent to after the exchange, such as `/?folder=…`. */
  readonly landing: string;
  /** 0 or absent: any free port. */
  readonly port?: number;
}

export interface Proxy {
  readonly port: number;
  /** Opens once. */
  readonly url: string;
  close(): Promise<void>;
}

type Verdict = { readonly enter: true } | { readonly enter: false; readonly status: number; readonly reason: string };

/** Listens on 127.0.0.1. Rejects with the system's error when the port is taken. */
export async function openProxy(options: ProxyOptions): Promise<Proxy> {
  const token = randomBytes(32).toString('base64url');
  const session = randomBytes(32).toString('base64url');
  let tokenLeft = true;
  const sockets = new Set<Socket>();
  const server = createServer();
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(options.port ?? 0, '127.0.0.1', resolve);
  });
  const address = server.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  // Cookies do not tell ports apart, so the name does: two served workbenches must not end each other's session.
  const cookie = `bondwise-${port}`;
  const hosts = [`127.0.0.1:${port}`, `localhost:${port}`];

  const judge = (headers: IncomingHttpHeaders): Verdict => {
    const host = headers.host ?? '';
    if (!hosts.includes(host)) {
      return { enter: false, status: 403, reason: 'This address is not served here.' };
    }
    if (headers.origin !== undefined && headers.origin !== `http://${host}`) {
      return { enter: false, status: 403, reason: 'Requests from other pages are refused.' };
    }
    if (!same(readCookie(headers.cookie, cookie), session)) {
      return { enter: false, status: 403, reason: 'Open the address that npm start -- --open printed. It works once: run the command again for another.' };
    }
    return { enter: true };
  };

  const exchange = (message: IncomingMessage, reply: ServerResponse): boolean => {
    const url = new URL(message.url ?? '/', 'http://127.0.0.1');
    const given = url.searchParams.get('token');
    const exact = message.method === 'GET' && url.pathname === '/' && hosts.includes(message.headers.host ?? '');
    if (!exact || !tokenLeft || given === null || !same(given, token)) {
      return false;
    }
    tokenLeft = false;
    reply.writeHead(302, {
      'Set-Cookie': `${cookie}=${session}; Path=/; HttpOnly; SameSite=Strict`,
      'Location': options.landing,
      'Cache-Control': 'no-store',
      'Referrer-Policy': 'no-referrer',
    });
    reply.end();
    return true;
  };

  server.on('connection', (socket: Socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
  });
  server.on('request', (message: IncomingMessage, reply: ServerResponse) => {
    if (exchange(message, reply)) {
      return;
    }
    const verdict = judge(message.headers);
    if (verdict.enter) {
      forward(options.socket, message, reply, cookie);
    } else {
      reply.writeHead(verdict.status, { 'Content-Type': 'text/plain; charset=utf-8', 'Cache-Control': 'no-store' });
      reply.end(`${verdict.reason}\n`);
    }
  });
  server.on('upgrade', (message: IncomingMessage, client: Socket, head: Buffer) => {
    const verdict = judge(message.headers);
    if (verdict.enter) {
      forwardUpgrade(options.socket, message, client, head, cookie);
    } else {
      client.end(`HTTP/1.1 ${verdict.status} Forbidden\r\nConnection: close\r\n\r\n`);
    }
  });

  return {
    port,
    url: `http://127.0.0.1:${port}/?token=${token}`,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        for (const socket of sockets) {
          socket.destroy();
        }
      }),
  };
}

function forward(socket: string, message: IncomingMessage, reply: ServerResponse, cookie: string): void {
  const behind = request({ socketPath: socket, method: message.method, path: message.url, headers: withoutCookie(message.headers, cookie) });
  behind.on('response', (answer) => {
    reply.writeHead(answer.statusCode ?? 502, answer.statusMessage, answer.headers);
    answer.pipe(reply);
  });
  behind.on('error', () => {
    if (!reply.headersSent) {
      reply.writeHead(502, { 'Content-Type': 'text/plain; charset=utf-8' });
      reply.end('The workbench does not answer. Look at the terminal that runs npm start -- --open.\n');
    } else {
      reply.destroy();
    }
  });
  reply.on('close', () => behind.destroy());
  message.pipe(behind);
}

/** Sends the request's head as it came to the server behind and joins the two streams. */
function forwardUpgrade(socket: string, message: IncomingMessage, client: Socket, head: Buffer, cookie: string): void {
  const behind = connect(socket);
  const lines = [`${message.method ?? 'GET'} ${message.url ?? '/'} HTTP/1.1`];
  for (const [name, value] of Object.entries(withoutCookie(message.headers, cookie))) {
    for (const one of Array.isArray(value) ? value : [value ?? '']) {
      lines.push(`${name}: ${one}`);
    }
  }
  behind.on('connect', () => {
    behind.write(`${lines.join('\r\n')}\r\n\r\n`);
    behind.write(head);
    client.pipe(behind).pipe(client);
  });
  behind.on('error', () => client.destroy());
  behind.on('close', () => client.destroy());
  client.on('error', () => behind.destroy());
  client.on('close', () => behind.destroy());
}

/** The server behind has no use for our session, so it does not see it. */
function withoutCookie(headers: IncomingHttpHeaders, cookie: string): IncomingHttpHeaders {
  const { cookie: all, ...rest } = headers;
  const others = (all ?? '').split(/;\s*/).filter((part) => part !== '' && !part.startsWith(`${cookie}=`));
  return others.length === 0 ? rest : { ...rest, cookie: others.join('; ') };
}

function readCookie(header: string | undefined, name: string): string {
  const pair = (header ?? '').split(/;\s*/).find((part) => part.startsWith(`${name}=`));
  return pair?.slice(name.length + 1) ?? '';
}

/** Compares secrets in a time that does not tell how much of them is right. */
function same(given: string, secret: string): boolean {
  const left = Buffer.from(given);
  const right = Buffer.from(secret);
  return left.length === right.length && timingSafeEqual(left, right);
}
