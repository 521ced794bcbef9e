"""A local server that speaks the endpoints of the Hub that pushing and loading a model need."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_good"
LARGE = (".safetensors", ".onnx")
REPOSITORY = r"(?P<id>[\w.-]+/[\w.-]+)"


@dataclass
class Repository:
    private: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        about = [len(self.commits), branch, sorted((n, blob_id(c)) for n, c in files.items())]
        commit = hashlib.sha1(json.dumps(about).encode()).hexdigest()
        self.commits[commit] = files
        self.branches[branch] = commit
        return commit

    def files(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commit = self.branches.get(revision, revision)
        return (commit, self.commits[commit]) if commit in self.commits else None


class Hub:
    """Its repositories, what was asked of it, and how it fails.

    Attributes:
        repositories: By name.
        uploads: Large files that were uploaded, by digest.
        asked: Method and path of each request.
        broken: The connection breaks in the middle of files whose names end so.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.repositories: dict[str, Repository] = {}
        self.uploads: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.broken: tuple[str, ...] = ()


class AnswerError(Exception):
    """An answer that isn't 200."""

    def __init__(self, status: int, code: str = "", message: str = "", **content: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.content = {"error": message, **content}


@contextmanager
def local_hub() -> Iterator[Hub]:
    """Serves an empty Hub on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.hub = hub = Hub(f"http://127.0.0.1:{server.server_port}")  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None: ...

    @property
    def hub(self) -> Hub:
        return self.server.hub  # type: ignore[attr-defined,no-any-return]

    def do_GET(self) -> None:
        self.answer()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        try:
            for method, pattern, handle in ROUTES:
                found = re.fullmatch(pattern, path)
                if found and self.command in method.split():
                    handle(self, **found.groupdict())
                    return
            raise AnswerError(404, message=f"no {self.command} {path}")
        except AnswerError as problem:
            headers = {"X-Error-Code": problem.code, "X-Error-Message": problem.message}
            self.send(json.dumps(problem.content).encode(), problem.status, headers)

    def send(
        self, content: bytes, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        given = {"Content-Type": "application/json", "Content-Length": str(len(content))}
        for name, value in {**given, **(headers or {})}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def send_json(self, content: Any) -> None:
        self.send(json.dumps(content).encode())

    @property
    def is_known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def check_token(self) -> None:
        if not self.is_known:
            raise AnswerError(401, message="Invalid username or password.")

    def repository(self, id: str) -> Repository:
        found = self.hub.repositories.get(id)
        if found is None or (found.private and not self.is_known):
            raise AnswerError(404 if self.is_known else 401, "RepoNotFound", "Repository not found")
        return found

    def files(self, id: str, revision: str | None) -> tuple[str, dict[str, bytes]]:
        found = self.repository(id).files(revision or "main")
        if found is None:
            raise AnswerError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found

    # The endpoints.

    def who(self) -> None:
        self.check_token()
        self.send_json({"name": "me", "type": "user", "orgs": []})

    def validate(self) -> None:
        self.send_json({"errors": [], "warnings": []})

    def create(self) -> None:
        self.check_token()
        asked = json.loads(self.body)
        id = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if id in self.hub.repositories:
            url = f"{self.hub.url}/{id}"
            raise AnswerError(409, message="You already created this model repo", url=url)
        self.hub.repositories[id] = Repository(
            asked.get("visibility") == "private" or bool(asked.get("private"))
        )
        self.hub.repositories[id].commit("main", {})
        self.send_json({"url": f"{self.hub.url}/{id}", "name": id, "id": id})

    def branch(self, id: str, branch: str) -> None:
        self.check_token()
        repository = self.repository(id)
        if branch in repository.branches:
            raise AnswerError(409, message="Reference already exists")
        repository.branches[branch] = repository.branches["main"]
        self.send_json({})

    def preupload(self, id: str, revision: str) -> None:
        self.check_token()
        _, files = self.files(id, revision)
        names = [one["path"] for one in json.loads(self.body)["files"]]
        modes = {name: "lfs" if name.endswith(LARGE) else "regular" for name in names}
        self.send_json(
            {
                "files": [
                    {
                        "path": name,
                        "uploadMode": mode,
                        "shouldIgnore": False,
                        "oid": oid_of(name, files),
                    }
                    for name, mode in modes.items()
                ]
            }
        )

    def batch(self, id: str) -> None:
        self.check_token()
        self.repository(id)
        objects = json.loads(self.body)["objects"]
        for one in objects:
            one["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{one['oid']}"}}
        self.send_json({"transfer": "basic", "objects": objects})

    def upload(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise AnswerError(400, message="another content")
        self.hub.uploads[oid] = self.body
        self.send(b"")

    def commit(self, id: str, revision: str) -> None:
        self.check_token()
        _, files = self.files(id, revision)
        files = dict(files)
        for line in self.body.splitlines():
            row = json.loads(line)
            value = row["value"]
            if row["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif row["key"] == "lfsFile":
                files[value["path"]] = self.hub.uploads[value["oid"]]
            elif row["key"] == "deletedFile":
                del files[value["path"]]
        commit = self.hub.repositories[id].commit(revision, files)
        url = f"{self.hub.url}/{id}/commit/{commit}"
        self.send_json({"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})

    def info(self, id: str, revision: str | None = None) -> None:
        commit, files = self.files(id, revision)
        siblings = [
            {
                "rfilename": name,
                "size": len(content),
                "blobId": blob_id(content),
                **lfs_of(name, content),
            }
            for name, content in files.items()
        ]
        private = self.hub.repositories[id].private
        about = {"_id": "0" * 24, "id": id, "modelId": id, "sha": commit, "private": private}
        self.send_json({**about, "siblings": siblings, "tags": [], "downloads": 0, "likes": 0})

    def tree(self, id: str, revision: str, folder: str | None = None) -> None:
        _, files = self.files(id, revision)
        inside = {n: c for n, c in files.items() if n.startswith(folder or "")}
        if folder and not inside:
            raise AnswerError(404, "EntryNotFound", f"{folder} does not exist")
        self.send_json(
            [
                {"type": "file", "oid": blob_id(content), "size": len(content), "path": name}
                for name, content in inside.items()
            ]
        )

    def resolve(self, id: str, revision: str, name: str) -> None:
        commit, files = self.files(id, revision)
        if name not in files:
            headers = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}
            self.send(b"", 404, headers)
            return
        content = files[name]
        lfs = lfs_of(name, content).get("lfs")
        headers = {
            "X-Repo-Commit": commit,
            "ETag": f'"{lfs["sha256"] if lfs else blob_id(content)}"',
            "Content-Type": "application/octet-stream",
        }
        if self.command == "GET" and name.endswith(self.hub.broken or ("\0",)):
            self.send_response(200)
            for key, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            return
        self.send(content, 200, headers)


def blob_id(content: bytes) -> str:
    """Git's name of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def oid_of(name: str, files: dict[str, bytes]) -> str | None:
    """By what the client sees that a file is there and the same."""
    if name not in files:
        return None
    lfs = lfs_of(name, files[name])
    return str(lfs["lfs"]["sha256"]) if lfs else blob_id(files[name])


def lfs_of(name: str, content: bytes) -> dict[str, Any]:
    """What the Hub says of a large file."""
    if not name.endswith(LARGE):
        return {}
    digest = hashlib.sha256(content).hexdigest()
    return {"lfs": {"sha256": digest, "size": len(content), "pointerSize": 134}}


ROUTES: list[tuple[str, str, Any]] = [
    ("GET", "/api/whoami-v2", Handler.who),
    ("POST", "/api/validate-yaml", Handler.validate),
    ("POST", "/api/repos/create", Handler.create),
    ("POST", rf"/api/models/{REPOSITORY}/branch/(?P<branch>.+)", Handler.branch),
    ("POST", rf"/api/models/{REPOSITORY}/preupload/(?P<revision>.+)", Handler.preupload),
    ("POST", rf"/api/models/{REPOSITORY}/commit/(?P<revision>.+)", Handler.commit),
    ("POST", rf"/{REPOSITORY}\.git/info/lfs/objects/batch", Handler.batch),
    ("PUT", r"/lfs/(?P<oid>\w+)", Handler.upload),
    ("GET", rf"/api/models/{REPOSITORY}", Handler.info),
    ("GET", rf"/api/models/{REPOSITORY}/revision/(?P<revision>.+)", Handler.info),
    ("GET", rf"/api/models/{REPOSITORY}/tree/(?P<revision>[^/]+)(/(?P<folder>.+))?", Handler.tree),
    ("GET HEAD", rf"/{REPOSITORY}/resolve/(?P<revision>[^/]+)/(?P<name>.+)", Handler.resolve),
]
