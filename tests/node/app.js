// An app as people write them: it knows nothing of prefork. The path of a request is a command of the tests.
const http = require('node:http');
const fs = require('node:fs');

const version = fs.existsSync('version') ? fs.readFileSync('version', 'utf8').trim() : 'v1';
if (version === 'broken') throw new Error('this release is broken');

function answer(request, response) {
  const [, command, argument] = request.url.split('/');
  switch (command) {
    case 'pid': return response.end(String(process.pid));
    case 'slot': return response.end(process.env.NODE_APP_INSTANCE);
    case 'version': return response.end(version);
    case 'env': return response.end(process.env[argument] ?? '-');
    case 'client': return response.end(`${request.socket.remoteAddress} ${request.socket.localPort}`);
    case 'sleep': return setTimeout(() => response.end('slept'), Number(argument));
    case 'block': {
      const end = Date.now() + Number(argument);
      while (Date.now() < end);
      return response.end('blocked');
    }
    case 'send':
      process.send({ text: 'x'.repeat(Number(argument)) });
      return response.end('sent');
    case 'grow':
      global.kept = Buffer.alloc(Number(argument), 1);
      return response.end('grown');
    case 'leave':
      response.end('left');
      return require('node:cluster').worker.disconnect();
    case 'exit': return process.exit(3);
    default:
      response.statusCode = 404;
      return response.end();
  }
}

const server = http.createServer(answer);
if (process.env.MAX_CONNECTIONS) server.maxConnections = Number(process.env.MAX_CONNECTIONS);
process.on('message', (message) => {
  if (message === 'shutdown') fs.appendFileSync('shutdowns', '.');
});
// As a pool of connections to a database does.
if (process.env.STAYS) setInterval(() => {}, 1000);
const after = Number(process.env.LISTEN_AFTER ?? 0);
const listen = () => server.listen(process.env.ADDRESS ?? 0, process.env.ADDRESS ? undefined : '127.0.0.1', () => {
  if (process.env.SAY_READY) setTimeout(() => process.send('ready'), 50);
});
if (after >= 0) setTimeout(listen, after); else setInterval(() => {}, 1000);
