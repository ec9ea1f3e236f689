"""A web server with ranges and etags that also answers as much of S3's protocol as we use."""

import hashlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


class Bucket:
    """Files by path (`bucket/name`), and what was asked for.

    Attributes:
        files: bytes by path.
        sent: bytes of files that were sent.
        asked: methods and paths, in order.
        refuse: status that every request gets, for those who have no rights.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.sent = 0
        self.asked: list[tuple[str, str]] = []
        self.refuse = 0
        bucket = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_HEAD(self) -> None:
                bucket.answer(self, body=False)

            def do_GET(self) -> None:
                bucket.answer(self)

            def do_PUT(self) -> None:
                bucket.take(self)

            def do_POST(self) -> None:
                bucket.drop(self)

            def do_DELETE(self) -> None:
                bucket.drop_one(self)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def reset(self) -> None:
        """Count anew."""
        self.sent, self.asked = 0, []

    def reply(self, handler: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers):
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), str(value))
        if "Content_Length" not in headers:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def answer(self, handler: BaseHTTPRequestHandler, body: bool = True) -> None:
        parts = urlsplit(handler.path)
        path = unquote(parts.path).lstrip("/")
        self.asked.append((handler.command, path))
        if self.refuse:
            return self.reply(handler, self.refuse)
        query = parse_qs(parts.query)
        if "list-type" in query:
            return self.reply(handler, 200, self.listing(path.rstrip("/"), query))
        if path not in self.files:
            return self.reply(handler, 404)
        data = self.files[path]
        tag = f'"{hashlib.md5(data).hexdigest()}"'
        if handler.headers.get("If-Match", tag) != tag:
            return self.reply(handler, 412)
        headers = {
            "ETag": tag,
            "Last_Modified": "Wed, 01 Jan 2025 00:00:00 GMT",
            "Accept_Ranges": "bytes",
        }
        if not body:
            return self.reply(handler, 200, Content_Length=len(data), **headers)
        wanted = handler.headers.get("Range")
        if wanted is None:
            self.sent += len(data)
            return self.reply(handler, 200, data, **headers)
        first, last = wanted.removeprefix("bytes=").split("-")
        part = data[int(first) : int(last) + 1]
        self.sent += len(part)
        where = f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"
        return self.reply(handler, 206, part, Content_Range=where, **headers)

    def listing(self, bucket: str, query: dict[str, list[str]]) -> bytes:
        prefix = query.get("prefix", [""])[0]
        start, flat = f"{bucket}/{prefix}", "delimiter" in query
        rows = "".join(
            f"<Contents><Key>{path.removeprefix(bucket + '/')}</Key><Size>{len(data)}</Size>"
            '<LastModified>2025-01-01T00:00:00.000Z</LastModified><ETag>"x"</ETag></Contents>'
            for path, data in sorted(self.files.items())
            if path.startswith(start) and not (flat and "/" in path.removeprefix(start))
        )
        return (
            '<?xml version="1.0"?><ListBucketResult><IsTruncated>false</IsTruncated>'
            f"{rows}</ListBucketResult>"
        ).encode()

    def take(self, handler: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(handler.path).path).lstrip("/")
        self.asked.append(("PUT", path))
        data = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        if self.refuse:
            return self.reply(handler, self.refuse)
        self.files[path] = data
        return self.reply(handler, 200, ETag=f'"{hashlib.md5(data).hexdigest()}"')

    def drop(self, handler: BaseHTTPRequestHandler) -> None:
        """Remove files as S3 does: `POST /bucket?delete` with a list of keys."""
        bucket = urlsplit(handler.path).path.strip("/")
        text = handler.rfile.read(int(handler.headers.get("Content-Length", 0))).decode()
        keys = re.findall("<Key>(.*?)</Key>", text)
        self.asked += [("DELETE", f"{bucket}/{key}") for key in keys]
        if self.refuse:
            return self.reply(handler, self.refuse)
        for key in keys:
            self.files.pop(f"{bucket}/{key}", None)
        rows = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
        return self.reply(handler, 200, f"<DeleteResult>{rows}</DeleteResult>".encode())

    def drop_one(self, handler: BaseHTTPRequestHandler) -> None:
        """Remove a file by `DELETE /bucket/key`, as obstore asked before it sent lists."""
        path = unquote(urlsplit(handler.path).path).lstrip("/")
        self.asked.append(("DELETE", path))
        if self.refuse:
            return self.reply(handler, self.refuse)
        self.files.pop(path, None)
        return self.reply(handler, 204)
