// Serves the page, the dashboard and a way to Prometheus on one address, so that the browser needs no other.
import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';

const [port, prometheus, dashboard] = process.argv.slice(2);
const types = { '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml', '.json': 'application/json' };
const page = '<!doctype html><meta charset="utf-8"><link rel="stylesheet" href="/bundle.css">' +
  '<body style="margin:0"><div id="root"></div><script src="/bundle.js"></script>';

async function answer(request, response) {
  const url = new URL(request.url, 'http://preview');
  if (url.pathname === '/') return response.writeHead(200, { 'content-type': 'text/html' }).end(page);
  if (url.pathname.startsWith('/api/')) {
    const upstream = await fetch(prometheus + url.pathname + url.search);
    return response.writeHead(upstream.status, { 'content-type': types['.json'] }).end(await upstream.text());
  }
  // Icons are fetched while drawing.
  const below = url.pathname.startsWith('/public/') ? 'node_modules/@grafana/ui/dist' : '.';
  const file = url.pathname === '/dashboard.json' ? dashboard : path.join(below, path.normalize(url.pathname));
  if (!fs.existsSync(file)) return response.writeHead(404).end();
  const type = types[path.extname(file)] ?? 'application/octet-stream';
  response.writeHead(200, { 'content-type': type }).end(fs.readFileSync(file));
}

http
  .createServer((request, response) => answer(request, response).catch((e) => response.writeHead(500).end(String(e))))
  .listen(Number(port), '127.0.0.1', () => console.log('ready'));
