// Sends back each WebSocket message: node deploy.js PORT, alone or under PM2's cluster mode.
'use strict';
const WebSocket = require('ws');

const server = new WebSocket.Server({ port: Number(process.argv[2]), host: '127.0.0.1', perMessageDeflate: false, backlog: 4096 });
server.on('connection', client => {
    client.on('error', () => {});
    client.on('message', data => client.send(data.toString()));
});
