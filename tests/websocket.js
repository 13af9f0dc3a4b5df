// A client by Node's ws: node websocket.js [drain] URL. Says "ok", or what went wrong.
'use strict';
const assert = require('assert');
const WebSocket = require('ws');

const url = process.argv.pop();
const EVENTS = ['open', 'message', 'ping', 'pong', 'close', 'error'];

// A client whose events are kept until they are asked for.
class Client {
    constructor(options) {
        this.ws = new WebSocket(url, options);
        this.kept = Object.fromEntries(EVENTS.map(name => [name, []]));
        for (const name of EVENTS) {
            this.ws.on(name, (...values) => {
                this.kept[name].push(values);
                if (this.wake) this.wake();
            });
        }
    }

    async next(name) {
        while (this.kept[name].length === 0) {
            if (this.kept.error.length > 0) throw this.kept.error[0][0];
            assert.ok(name === 'close' || this.kept.close.length === 0, `closed: ${this.kept.close}`);
            await new Promise(resolve => { this.wake = resolve; });
        }
        return this.kept[name].shift();
    }
}

const open = async options => {
    const client = new Client(options);
    await client.next('open');
    return client;
};

async function conversation() {
    const client = await open({ perMessageDeflate: true });
    const ws = client.ws;
    assert.strictEqual(ws.extensions, '');
    for (const size of [0, 1, 125, 126, 65535, 65536, 999999]) {
        for (const data of ['x'.repeat(size), Buffer.alloc(size, 7)]) {
            ws.send(data);
            const [answer, isBinary] = await client.next('message');
            assert.strictEqual(isBinary, typeof data !== 'string');
            assert.ok(answer.equals(Buffer.from(data)));
        }
    }
    // In fragments, with a ping between.
    ws.send('on', { fin: false });
    ws.ping('middle');
    ws.send('e €', { fin: true });
    assert.strictEqual((await client.next('pong'))[0].toString(), 'middle');
    assert.strictEqual((await client.next('message'))[0].toString(), 'one €');
    // ws answers the server's pings itself: it is still there after several.
    client.kept.ping = [];
    for (let i = 0; i < 3; i++) await client.next('ping');
    // Many at once, in order.
    for (let i = 0; i < 1000; i++) ws.send(String(i));
    for (let i = 0; i < 1000; i++) assert.strictEqual((await client.next('message'))[0].toString(), String(i));
    ws.close(4001, 'bye');
    assert.strictEqual((await client.next('close'))[0], 4001);
}

async function tooBig() {
    const client = await open();
    client.ws.send(Buffer.alloc(1000001));
    assert.strictEqual((await client.next('close'))[0], 1009);
}

async function drain() {
    const clients = [];
    for (let i = 0; i < 10; i++) {
        const client = await open();
        client.ws.send('hello');
        await client.next('message');
        clients.push(client);
    }
    console.log('ready');
    for (const client of clients) assert.strictEqual((await client.next('close'))[0], 1001);
}

(process.argv.includes('drain') ? drain() : conversation().then(tooBig)).then(() => console.log('ok'), e => {
    console.log(e);
    process.exitCode = 1;
});
