// Two servers in one app, both on a free port, and one on a path.
const http = require('node:http');
const say = (text) => (request, response) => response.end(`${text} ${process.pid}`);
http.createServer(say('first')).listen(0, '127.0.0.1');
http.createServer(say('second')).listen(0, '127.0.0.1');
// A relative path is of the working directory.
http.createServer(say('path')).listen('app.sock');
if (process.env.NODE_APP_INSTANCE === '0') {
  http.createServer(say('only')).listen(0, '127.0.0.1');
}
