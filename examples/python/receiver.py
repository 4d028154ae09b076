"""Receive webhooks and print whether each one is genuine.

WEBHOOK_SECRET=whsec_... python receiver.py [PORT]      (9000 by default)
"""

import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from verify import verify

SECRETS = os.environ["WEBHOOK_SECRET"].split()


class Receiver(BaseHTTPRequestHandler):
    """Answers 204 to a genuine webhook and 401 to any other request."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            verify(SECRETS, headers, body)
            status, verdict = 204, "verified"
        except ValueError as error:
            status, verdict = 401, f"refused ({error})"
        print(headers.get("webhook-id"), verdict, body.decode(errors="replace"), flush=True)
        self.send_response(status)
        self.end_headers()

    def log_message(self, *arguments):
        """Print nothing else."""


if __name__ == "__main__":
    port = int(sys.argv[1]) if sys.argv[1:] else 9000
    ThreadingHTTPServer(("127.0.0.1", port), Receiver).serve_forever()
