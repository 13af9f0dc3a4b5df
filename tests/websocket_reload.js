// Many clients by Node's ws: node websocket_reload.js COUNT URL. Each sends numbered messages and has them back in order, until
// standard input ends. Says how many came back, line by line; at the end "ok", or what went wrong.
'use strict';
const WebSocket = require('ws');

const [count, url] = process.argv.slice(2);
const AHEAD = 3;
const PAUSE = 100;
let answers = 0, stopping = false, open = 0;

const fail = why => {
    console.log(`failed: ${why}`);
    process.exit(1);
};

// Text and binary, small and of 300 KB, whole and in fragments.
const content = (id, n) => {
    const size = n % 40 === id % 40 ? 300000 : n * 7 % 300;
    const text = `${id} ${n} ${'é'.repeat(size / 2)}`;
    return n % 3 === 0 ? Buffer.from(text) : text;
};

const send = (ws, id, n) => {
    const data = content(id, n);
    if (n % 4 !== 0) return ws.send(data);
    const third = Math.ceil(data.length / 3);
    const parts = [0, 1, 2].map(i => data.slice(i * third, (i + 1) * third));
    ws.send(parts[0], { binary: typeof data !== 'string', fin: false });
    ws.ping(`${id} ${n}`);
    // The rest may find another worker.
    setTimeout(() => {
        ws.send(parts[1], { fin: false });
        ws.send(parts[2], { fin: true });
    }, n % 5 * 10);
    return n % 5 * 10 + 5;
};

const run = id => {
    const ws = new WebSocket(url, { perMessageDeflate: false });
    let sent = 0, received = 0, pongs = 0, isBusy = false;
    ws.on('open', () => {
        open++;
        setInterval(() => {
            if (isBusy) return;
            if (stopping && received === sent) {
                if (pongs !== Math.floor(sent / 4)) fail(`client ${id}: ${pongs} pongs of ${sent} messages`);
                ws.removeAllListeners('close');
                ws.close();
                if (--open === 0) {
                    console.log('ok');
                    process.exit(0);
                }
                isBusy = true;
            } else if (!stopping && sent - received < AHEAD) {
                const busy = send(ws, id, ++sent);
                // No message may be sent between the fragments of another.
                if (busy) {
                    isBusy = true;
                    setTimeout(() => { isBusy = false; }, busy);
                }
            }
        }, PAUSE);
    });
    ws.on('pong', data => {
        pongs++;
        if (data.toString() !== `${id} ${pongs * 4}`) fail(`client ${id}: pong ${data}`);
    });
    ws.on('message', (data, isBinary) => {
        received++;
        answers++;
        const expected = content(id, received);
        if (isBinary !== (typeof expected !== 'string') || !data.equals(Buffer.from(expected))) {
            fail(`client ${id}: message ${received} is ${data.toString().slice(0, 40)}`);
        }
    });
    ws.on('close', (code, reason) => fail(`client ${id}: closed ${code} ${reason}, ${received} of ${sent}`));
    ws.on('error', e => fail(`client ${id}: ${e}`));
};

for (let id = 0; id < Number(count); id++) run(id);
setInterval(() => console.log(answers), 100);
process.stdin.on('end', () => { stopping = true; }).resume();
