// Node's cluster as in its documentation: the primary accepts connections and distributes them, round robin.
//
//   node cluster.js [WORKERS [PORT]]      on 127.0.0.1; port 0 (the default) takes a free one
//
// SIGHUP replaces the workers: a new one first, then the old one disconnects.
'use strict';

const cluster = require('node:cluster');
const http = require('node:http');

const workers = Number(process.argv[2] || 2);
const port = Number(process.argv[3] || 0);

if (cluster.isPrimary) {
  cluster.schedulingPolicy = cluster.SCHED_RR;
  for (let i = 0; i < workers; i++) cluster.fork();

  let listening = 0;
  cluster.on('listening', (worker, address) => {
    if (++listening === workers) console.log(`listening on http://${address.address}:${address.port}`);
  });
  process.on('SIGHUP', () => {
    for (const old of Object.values(cluster.workers).filter((worker) => !worker.exitedAfterDisconnect)) {
      cluster.fork().once('listening', () => old.disconnect());
    }
  });
} else {
  const body = Buffer.from('hello world\n');
  const server = http.createServer((req, res) => {
    res.writeHead(200, { 'Content-Length': body.length });
    res.end(body);
  });
  server.keepAliveTimeout = 75000; // as long as nginx's
  server.listen(port, '127.0.0.1');
}
