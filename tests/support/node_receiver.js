// A receiver on Node's own HTTP server, plain and over TLS: what it does is named by the path.
// Says its ports as JSON, and ends with its standard input. GET /seen tells how often each path was asked for.
"use strict";
const fs = require("fs");
const http = require("http");
const https = require("https");

const [certificate, key] = process.argv.slice(2);
const seen = {};

function answer(status, headers = {}, body = "") {
  return (request, response) => response.writeHead(status, headers).end(body);
}

// What Node would not write by itself, as an application or a proxy behind it may.
function raw(text) {
  return (request) => request.socket.end(text, "latin1");
}

const ways = {
  "/plain": answer(200, { "content-type": "text/plain" }, "hello"),
  "/empty": answer(200),
  "/created": answer(201, { location: "/elsewhere" }),
  "/no-content": answer(204),
  "/not-modified": answer(304, { etag: '"x"' }),
  "/redirect": answer(307, { location: "/plain" }),
  "/redirect-away": answer(302, { location: "http://10.0.0.1/" }),
  "/cookie": answer(200, { "set-cookie": ["a=b", "c=d"] }),
  "/gone": answer(410, {}, "gone"),
  "/busy": answer(429, { "retry-after": "7" }, "busy"),
  "/down": answer(503, { "retry-after": "Wed, 21 Oct 2099 07:28:00 GMT" }),
  "/strange-status": answer(799),
  "/close": answer(200, { connection: "close" }, "bye"),
  "/zipped": answer(200, { "content-encoding": "gzip" }, "no gzip at all"),
  "/refuses-upgrade": answer(426, { upgrade: "websocket", connection: "upgrade" }, "no"),
  "/offers-upgrade": answer(200, { upgrade: "h2c", connection: "upgrade" }, "ok"),
  "/refuses-expectation": answer(417),
  "/eight-bits": (request, response) => {
    response.setHeader("x-latin", "\u00e4\u00ff");
    response.end("ok");
  },
  "/empty-reason": (request, response) => response.writeHead(202, " ").end(),
  "/large-body": answer(200, {}, Buffer.alloc(1000000, "x")),
  "/long-header": answer(200, { x: "y".repeat(9000) }),
  "/just-short-enough": answer(200, { x: "y".repeat(8000) }),
  "/many-headers": (request, response) => {
    for (let number = 0; number < 200; number += 1) response.setHeader(`x-${number}`, "y");
    response.end();
  },
  "/chunked": (request, response) => {
    response.write("one");
    setImmediate(() => response.write("two"));
    setTimeout(() => response.end("three"), 20);
  },
  "/trailers": (request, response) => {
    response.writeHead(200, { trailer: "retry-after, x-sum" });
    response.write("body");
    response.addTrailers({ "retry-after": "9", "x-sum": "abc" });
    response.end();
  },
  "/closing-trailer": (request, response) => {
    response.writeHead(200, { trailer: "connection" });
    response.write("body");
    response.addTrailers({ connection: "close" });
    response.end();
  },
  "/until-closed": (request, response) => {
    response.useChunkedEncodingByDefault = false;
    response.shouldKeepAlive = false;
    response.removeHeader("content-length");
    response.write("some text, ");
    setTimeout(() => response.end("and more"), 20);
  },
  "/slow-head": (request, response) => setTimeout(() => response.end("late"), 200),
  "/slow-body": (request, response) => {
    response.writeHead(200, { "content-length": "3" });
    let left = 3;
    const timer = setInterval(() => {
      response.write("x");
      left -= 1;
      if (!left) {
        clearInterval(timer);
        response.end();
      }
    }, 30);
  },
  "/half-a-body": (request, response) => {
    response.writeHead(200, { "content-length": "10" });
    response.write("abc", () => response.socket.destroy());
  },
  "/continue": (request, response) => {
    response.writeContinue();
    setTimeout(() => response.end("went on"), 20);
  },
  "/processing": (request, response) => {
    response.writeProcessing();
    response.end();
  },
  "/early-hints": (request, response) => {
    response.writeEarlyHints({ link: "</style.css>; rel=preload" });
    response.writeEarlyHints({ link: "</more.css>; rel=preload" });
    response.end();
  },
  "/waits-for-the-body": (request, response) => {
    let size = 0;
    request.on("data", (part) => { size += part.length; });
    request.on("end", () => response.writeHead(size === Number(request.headers["content-length"]) ? 200 : 400).end());
  },
  "/answers-early": answer(413, {}, "too large"),
  "/answers-early-and-stops": (request, response) => {
    request.pause();
    response.writeHead(413, { "content-length": "0" }).end();
  },
  "/silent": () => {},
  "/hangs-up": (request, response) => response.socket.destroy(),
  "/ends": (request, response) => response.socket.end(),
  "/resets": (request) => (request.socket.encrypted ? request.socket.destroy() : request.socket.resetAndDestroy()),
  "/http-1.0": raw("HTTP/1.0 200 OK\r\n\r\nold"),
  "/http-2": raw("HTTP/2 200 OK\r\n\r\n"),
  "/half-a-head": raw("HTTP/1.1 200 OK\r\ncontent-le"),
  "/two-lengths": raw("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab"),
  "/smuggles": raw("HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\nabc"),
  "/line-feeds": raw("HTTP/1.1 200 OK\nconnection: close\ncontent-length: 0\n\n"),
  "/switches": raw("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nraw"),
  "/says-more": raw("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nHTTP/1.1 500 x\r\ncontent-length: 0\r\n\r\n"),
};

function serve(request, response) {
  if (request.url === "/seen") {
    response.end(JSON.stringify(seen));
    return;
  }
  seen[request.url] = (seen[request.url] || 0) + 1;
  (ways[request.url] || answer(404))(request, response);
}

const tls = { cert: fs.readFileSync(certificate), key: fs.readFileSync(key) };
const servers = {
  plain: http.createServer({ keepAliveTimeout: 60000 }, serve),
  secured: https.createServer({ ...tls, keepAliveTimeout: 60000 }, serve),
  // Hangs up soon after each answer.
  brief: http.createServer({ keepAliveTimeout: 500, keepAliveTimeoutBuffer: 0 }, serve),
};
const listening = Object.entries(servers).map(
  ([name, server]) =>
    new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve([name, server.address().port]))),
);
Promise.all(listening).then((ports) => {
  process.stdout.write(JSON.stringify({ ...Object.fromEntries(ports), paths: Object.keys(ways) }) + "\n");
});
process.stdin.on("end", () => process.exit(0)).resume();
