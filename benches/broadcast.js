// What broadcast.c measures of Node: node broadcast.js WORKERS PORT. Workers tell each other by way of the primary.
'use strict';
const cluster = require('cluster');

const [workers, port] = process.argv.slice(2).map(Number);
if (cluster.isPrimary) {
    let listening = 0;
    for (let i = 0; i < workers; i++) cluster.fork();
    cluster.on('listening', (worker, address) => {
        if (++listening === workers) console.log(`listening on http://127.0.0.1:${address.port}`);
    });
    cluster.on('message', (from, text) => {
        for (const worker of Object.values(cluster.workers)) if (worker !== from) worker.send(text);
    });
} else {
    const WebSocket = require('ws');
    const server = new WebSocket.Server({ port, host: '127.0.0.1', perMessageDeflate: false, clientTracking: true });
    const sendAll = text => {
        for (const client of server.clients) client.send(text);
    };
    server.on('connection', client => {
        client.on('error', () => {});
        client.on('message', data => {
            const text = data.toString();
            process.send(text);
            sendAll(text);
        });
    });
    process.on('message', sendAll);
}
