// Round trips between Node's primary and one worker by process.send, to compare with messages.rs: 64 bytes, 1 or 64 at a time.
//
//   node messages.js [ROUNDS]
'use strict';

const cluster = require('node:cluster');

if (cluster.isPrimary) {
  const rounds = Number(process.argv[2] || 30000);
  const bytes = 'x'.repeat(64);
  const worker = cluster.fork();
  const windows = [1, 64];
  let window, sent, taken, begun;

  const send = () => { if (sent < rounds) { sent++; worker.send(bytes); } };
  const next = () => {
    window = windows.shift();
    if (!window) return worker.disconnect();
    [sent, taken, begun] = [0, 0, process.hrtime.bigint()];
    for (let i = 0; i < window; i++) send();
  };
  worker.on('online', next);
  worker.on('message', () => {
    if (++taken < rounds) return send();
    const seconds = Number(process.hrtime.bigint() - begun) / 1e9;
    console.log(`master asks worker, ${window} at a time  ${Math.round(rounds / seconds)} round trips/s`);
    next();
  });
} else {
  process.on('message', (bytes) => process.send(bytes));
}
