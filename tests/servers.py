"""Real servers on loopback for tests: S3 (moto in a process of its own) and HTTP with ranges."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

import fsspec

REGION = "us-east-1"
# it ends with its standard input: a test that is killed leaves no server behind
MOTO = """
import logging, sys
from moto.server import ThreadedMotoServer
logging.disable(logging.CRITICAL)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(*server.get_host_and_port(), flush=True)
sys.stdin.read()
"""


@dataclass
class S3Server:
    """A running S3 server: ``url`` of its bucket, its ``endpoint``, and the credentials in use."""

    endpoint: str
    bucket: str
    key: str = "tester-key-id"
    secret: str = "tester-secret-value"

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to use the server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    @contextlib.contextmanager
    def wrong_credentials(self, *, key: str | None = None) -> Iterator[dict[str, str]]:
        """Sign everything with another secret (or as another user)."""
        wrong = {"AWS_SECRET_ACCESS_KEY": "a-wrong-secret-value"}
        if key is not None:
            wrong["AWS_ACCESS_KEY_ID"] = key
        with environment(wrong):
            yield wrong


@contextlib.contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """Set variables of the environment; file systems that were made with others are forgotten."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    forget_filesystems()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        forget_filesystems()


def forget_filesystems() -> None:
    """Drop fsspec's instances: their sessions hold the credentials that they began with."""
    for protocol in ("s3", "http", "https"):
        with contextlib.suppress(ImportError):
            fsspec.get_filesystem_class(protocol).clear_instance_cache()


@contextlib.contextmanager
def s3_server(bucket: str = "bucket", *, authenticated: bool = False) -> Iterator[S3Server]:
    """A moto server with one bucket; the environment points to it for the duration.

    With ``authenticated`` signatures and rights are checked, so that wrong credentials are refused.
    """
    import boto3

    process = subprocess.Popen(
        [sys.executable, "-c", MOTO],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        host, port = process.stdout.readline().split()
        server = S3Server(f"http://{host}:{port}", bucket)
        with environment(server.environment):
            options = {"endpoint_url": server.endpoint, "region_name": REGION}
            boto3.client("s3", **options).create_bucket(Bucket=bucket)
            if authenticated:
                _check_signatures(server, boto3.client("iam", **options))
            with environment(server.environment):
                yield server
    finally:
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def _check_signatures(server: S3Server, iam) -> None:
    """Make a user who may use S3, and let the server check who asks from now on."""
    allowed = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
    iam.create_user(UserName="tester")
    iam.put_user_policy(UserName="tester", PolicyName="s3", PolicyDocument=policy)
    made = iam.create_access_key(UserName="tester")["AccessKey"]
    server.key, server.secret = made["AccessKeyId"], made["SecretAccessKey"]
    address, plain = f"{server.endpoint}/moto-api/reset-auth", {"Content-Type": "text/plain"}
    with urlopen(Request(address, data=b"0", headers=plain)) as answer:
        assert answer.status == 200


# -- HTTP ---------------------------------------------------------------------------------------
@dataclass
class HttpServer:
    """A running HTTP server: its ``url``, and what was asked of it.

    ``log`` holds (method, path, status, bytes of the body) of every request; ``hide`` names paths
    that are answered with a status of their own, e.g. 403.
    """

    url: str
    log: list[tuple[str, str, int, int]] = field(default_factory=list)
    hide: dict[str, int] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Bytes of all bodies that were sent."""
        return sum(entry[3] for entry in self.log)


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # with five, bursts of requests wait for seconds to be heard


@contextlib.contextmanager
def http_server(folder: Path | str) -> Iterator[HttpServer]:
    """Serve a folder read-only, with ranges and ETags, without listings (as object stores do)."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.folder = Path(folder).resolve()
    server.state = HttpServer(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    forget_filesystems()
    try:
        yield server.state
    finally:
        forget_filesystems()
        server.shutdown()
        server.server_close()
        thread.join(10)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, body):
        path = unquote(urlsplit(self.path).path)
        file = (self.server.folder / path.lstrip("/")).resolve()
        status = self.server.state.hide.get(path)
        if status is None and not (file.is_relative_to(self.server.folder) and file.is_file()):
            status = 404
        if status is not None:
            self._send(path, status, b"", {})
            return
        stat = file.stat()
        headers = {"ETag": f'"{stat.st_mtime_ns:x}-{stat.st_size:x}"', "Accept-Ranges": "bytes"}
        part = self._range(stat.st_size)
        start, stop = part or (0, stat.st_size)
        if part is not None:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{stat.st_size}"
        with file.open("rb") as stream:
            stream.seek(start)
            data = stream.read(stop - start)
        self._send(path, 206 if part else 200, data, headers, body)

    def _range(self, size):
        unit, _, text = self.headers.get("Range", "").partition("=")
        if unit != "bytes":
            return None
        first, _, last = text.partition("-")
        if not first:
            return max(size - int(last), 0), size
        return int(first), min(int(last) + 1 if last else size, size)

    def _send(self, path, status, data, headers, body=True):
        self.server.state.log.append((self.command, path, status, len(data) if body else 0))
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.wfile.write(data)

    def log_message(self, *args):
        pass
