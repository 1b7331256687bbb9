"""A server that speaks as much of Google Cloud Storage's XML interface as caches ask of it.

Written from https://cloud.google.com/storage/docs/xml-api/reference-methods: objects, listings by
prefix and delimiter in pages, ranges, `x-goog-if-generation-match`, uploads in parts.
"""

from __future__ import annotations

import hashlib
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.sax.saxutils import escape

PAGE = 3
"""Names in a page of a listing: few, so that tests turn pages."""
ERROR = "<?xml version='1.0'?><Error><Code>{}</Code><Message>{}</Message></Error>"


@dataclass
class Objects:
    """One bucket, "theirs".

    asked: "METHOD key?query" of every request
    """

    url: str = "gs://theirs"
    held: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[str, dict[int, bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    lock: Any = field(default_factory=threading.Lock)

    def objects(self, prefix: str) -> dict[str, bytes]:
        """Every object below a prefix, by its path there."""
        found = ((k, v) for k, v in sorted(self.held.items()) if k.startswith(f"{prefix}/"))
        return {key.removeprefix(f"{prefix}/"): content for key, content in found}


def handler(objects: Objects) -> type[BaseHTTPRequestHandler]:
    """A handler of requests for the bucket."""

    class Handler(BaseHTTPRequestHandler):
        def serve(self) -> None:
            split = urlsplit(self.path)
            bucket, _, key = unquote(split.path).lstrip("/").partition("/")
            query = dict(parse_qsl(split.query, keep_blank_values=True))
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            with objects.lock:
                objects.asked.append(f"{self.command} {key}?{split.query}")
                if bucket != "theirs":
                    self.fail(404, "NoSuchBucket", "The specified bucket does not exist.")
                elif not key:
                    self.list(query)
                elif self.command in ("PUT", "POST"):
                    self.write(key, query, body)
                elif key not in objects.held:
                    self.fail(404, "NoSuchKey", "The specified key does not exist.")
                elif self.command == "DELETE":
                    del objects.held[key]
                    self.say(204)
                else:
                    self.read(objects.held[key])

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = serve

        def write(self, key: str, query: dict[str, str], body: bytes) -> None:
            condition = self.headers.get("x-goog-if-generation-match")
            upload = query.get("uploadId", "")
            if condition == "0" and key in objects.held:
                self.fail(412, "PreconditionFailed", "At least one condition did not hold.")
            elif "uploads" in query:
                objects.uploads[str(len(objects.uploads))] = {}
                names = {"UploadId": str(len(objects.uploads) - 1), "Bucket": "theirs", "Key": key}
                self.say(200, xml("InitiateMultipartUploadResult", names))
            elif "partNumber" in query:
                objects.uploads[upload][int(query["partNumber"])] = body
                self.say(200, etag=body)
            elif upload:
                parts = objects.uploads[upload]
                numbers = map(int, re.findall(rb"<PartNumber>(\d+)<", body))
                objects.held[key] = b"".join(parts[number] for number in numbers)
                self.say(200, xml("CompleteMultipartUploadResult", {"ETag": '"whole"'}))
            else:
                objects.held[key] = body
                self.say(200, etag=body)

        def read(self, content: bytes) -> None:
            span = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
            if span is None:
                self.say(200, content, etag=content)
                return
            size = len(content)
            start = int(span[1]) if span[1] else max(0, size - int(span[2]))
            stop = min(size, int(span[2]) + 1) if span[1] and span[2] else size
            if start >= size:
                self.fail(416, "InvalidRange", "The requested range cannot be satisfied.")
                return
            whole = f"bytes {start}-{stop - 1}/{size}"
            self.say(206, content[start:stop], etag=content, headers={"Content-Range": whole})

        def list(self, query: dict[str, str]) -> None:
            prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
            names: dict[str, str] = {}  # of objects and of folders, to what is said of them
            for key, content in sorted(objects.held.items()):
                rest = key.removeprefix(prefix)
                if not key.startswith(prefix):
                    continue
                if delimiter and delimiter in rest:
                    folder = prefix + rest.split(delimiter)[0] + delimiter
                    names[folder] = xml("CommonPrefixes", {"Prefix": folder}).decode()
                else:
                    about = {"Key": key, "Size": str(len(content)), "ETag": tag(content)}
                    about["LastModified"] = "2020-01-01T00:00:00.000Z"
                    names[key] = xml("Contents", about).decode()
            after = query.get("continuation-token", "")
            waiting = [name for name in names if name > after]
            said = "".join(names[name] for name in waiting[:PAGE])
            if len(waiting) > PAGE:
                token = escape(waiting[PAGE - 1])
                said += f"<NextContinuationToken>{token}</NextContinuationToken>"
            self.say(200, f"<ListBucketResult>{said}</ListBucketResult>".encode())

        def fail(self, status: int, code: str, message: str) -> None:
            self.say(status, ERROR.format(code, message).encode())

        def say(
            self,
            status: int,
            body: bytes = b"",
            *,
            etag: bytes | None = None,
            headers: dict[str, str] | None = None,
        ) -> None:
            self.send_response(status)
            said = {"Content-Length": str(len(body)), **(headers or {})}
            said["Last-Modified"] = "Wed, 01 Jan 2020 00:00:00 GMT"
            if etag is not None:
                said |= {"ETag": tag(etag), "x-goog-generation": "1"}
            for name, value in said.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    return Handler


def tag(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'


def xml(name: str, texts: dict[str, str]) -> bytes:
    inner = "".join(f"<{key}>{escape(text)}</{key}>" for key, text in texts.items())
    return f"<{name}>{inner}</{name}>".encode()
