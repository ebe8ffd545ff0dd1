"""A hub: the files below /hub, for requests with the token in HUB_TOKEN."""

import functools
import os
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer


class Handler(SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path != "/" and self.headers.get("Authorization") != f"Bearer {os.environ['HUB_TOKEN']}":
            self.send_error(401)
            return
        super().do_GET()


ThreadingHTTPServer(("", 8080), functools.partial(Handler, directory="/hub")).serve_forever()
