"""A Hub on 127.0.0.1 for tests: what `huggingface_hub` and its users say to the real one, answered from memory.

    with Hub() as hub:  # and in another process: HF_ENDPOINT=hub.url HF_HUB_DISABLE_XET=1

Repositories of models, data sets and Spaces; branches and tags; the LFS way of uploading and, with a folder to store in, that
of Xet; commits as NDJSON; reading with ETag and Range; Collections; Jobs, which are written down and never run. `Fault`s make
single requests fail in chosen ways. It is no model of permissions beyond this: the account of `TOKEN` may write to `ORGS`,
private repositories do not exist for others, and nobody has access to gated ones.
"""

import asyncio
import base64
import hashlib
import json
import re
import shutil
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

import uvicorn
import yaml
from starlette.requests import Request
from starlette.responses import JSONResponse, Response


TOKEN = "hf_CanaryCanaryCanaryCanaryCanary0123"
USER, ORGS = "tester", ("org", "tester")
LFS = (".safetensors", ".parquet", ".png", ".bin")  # what the Hub's .gitattributes send to LFS
KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}
FREE_SDKS = (None, "static")
ROUTES: list[tuple[str, re.Pattern, Callable]] = []


class RefusalError(Exception):
    def __init__(self, status: int, code: str = "", message: str = "", **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Code": code, "X-Error-Message": message} | headers


@dataclass(frozen=True)
class Blob:
    content: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def oid(self) -> str:
        """git's, of the file itself or of the pointer that stands for it in git."""
        content = self.content
        if self.lfs:
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(content)}\n"
            content = pointer.encode()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class Commit:
    oid: str
    title: str
    files: dict[str, Blob]


@dataclass
class Repo:
    kind: str
    id: str
    private: bool = False
    gated: bool = False
    sdk: str | None = None
    branches: dict[str, list[Commit]] = field(default_factory=dict)
    tags: dict[str, Commit] = field(default_factory=dict)

    @property
    def head(self) -> Commit:
        return self.branches["main"][-1]

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return {name: blob.content for name, blob in self.at(revision).files.items()}

    def at(self, revision: str) -> Commit:
        if self.branches.get(revision):
            return self.branches[revision][-1]
        if revision in self.tags:
            return self.tags[revision]
        for commit in (commit for commits in self.branches.values() for commit in commits):
            if commit.oid == revision:
                return commit
        raise RefusalError(404, "RevisionNotFound", f"Invalid rev id: {revision}")

    def commit(self, branch: str, files: dict[str, Blob], title: str) -> Commit:
        commits = self.branches.setdefault(branch, [])
        content = repr((self.kind, self.id, branch, len(commits), title, sorted(files), time.time_ns()))
        commits.append(Commit(hashlib.sha1(content.encode()).hexdigest(), title, files))
        return commits[-1]

    def put(self, title: str = "by somebody else", branch: str = "main", **files: bytes) -> Commit:
        """A commit behind the client's back; in names a / is written as __."""
        blobs = {name.replace("__", "/"): Blob(content, False) for name, content in files.items()}
        return self.commit(branch, self.at(branch).files | blobs, title)


@dataclass
class Fault:
    """What happens to requests whose ``METHOD path`` matches, instead of an answer or before it.

    Attributes:
        status: answer with this, and `headers`.
        cut_upload, cut_answer: drop the connection after so many bytes of the request or of the answer.
        delay: seconds before the answer.
        before: called before the answer is made.
        drop_answer: do what is asked, then drop the connection without a word.
        times: so many requests, then none; -1 for all.
        echo: repeat the request's token in the message.
    """

    match: str
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut_upload: int | None = None
    cut_answer: int | None = None
    delay: float = 0
    before: Callable[[], object] | None = None
    drop_answer: bool = False
    change: Callable[[bytes], bytes] | None = None
    times: int = 1
    echo: bool = False
    seen: int = 0


class Hub:
    """The server and all it stores; `requests` lists what was asked, as ``METHOD path``."""

    def __init__(self, *, redirect: bool = False, page: int = 1000, xet: Path | None = None) -> None:
        self.jobs: list[dict] = []
        self.xet = xet
        self.repos: dict[tuple[str, str], Repo] = {}
        self.lfs: dict[str, bytes] = {}
        self.collections: dict[str, dict] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.redirect, self.page, self.pro = redirect, page, False
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(
            self._serve, log_level="critical", lifespan="off", http="h11", interface="asgi3", proxy_headers=False
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)

    def __enter__(self) -> "Hub":
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(10)

    def repo(self, kind: str, name: str) -> Repo:
        if (kind, name) not in self.repos:
            raise RefusalError(
                401, "RepoNotFound", "Repository not found"
            )  # as the Hub says it, so that names do not leak
        return self.repos[kind, name]

    def create(self, kind: str, name: str, **about) -> Repo:
        repo = self.repos[kind, name] = Repo(kind, name, **about)
        repo.commit(
            "main",
            {".gitattributes": Blob(b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n", False)}
            | ({"README.md": Blob(f"---\nsdk: {repo.sdk}\n---\n".encode(), False)} if kind == "space" else {}),
            "initial commit",
        )
        return repo

    # ------------------------------------------------------------------------------------------------ answering

    async def _serve(self, scope, receive, send) -> None:
        request = Request(scope, receive)
        line = f"{request.method} {scope['raw_path'].decode()}"
        self.requests.append(line)
        fault = next((one for one in self.faults if one.seen != one.times and re.search(one.match, line)), None)
        if fault is None:
            await (await self._answer(request))(scope, receive, send)
            return
        fault.seen += 1
        transport = receive.__self__.transport  # uvicorn's own: ASGI has no way to drop a connection
        await asyncio.sleep(fault.delay)
        if fault.before:
            fault.before()
        if fault.cut_upload is not None:
            await self._swallow(request, fault.cut_upload)
            transport.abort()
            return
        response = await (self._failure(request, fault) if fault.status else self._answer(request))
        if fault.change:
            response = Response(fault.change(response.body), response.status_code, dict(response.headers))
        if fault.drop_answer:
            transport.abort()
        elif fault.cut_answer is None:
            await response(scope, receive, send)
        else:
            await self._cut(response, fault.cut_answer, send, transport)

    async def _swallow(self, request: Request, most: int) -> None:
        got = 0
        async for piece in request.stream():
            got += len(piece)
            if got >= most:
                return

    async def _cut(self, response: Response, after: int, send, transport) -> None:
        await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
        await send({"type": "http.response.body", "body": response.body[:after], "more_body": True})
        await asyncio.sleep(0.05)  # so that what was sent arrives before the end
        transport.abort()

    async def _failure(self, request: Request, fault: Fault) -> Response:
        await request.body()
        said = f"no: {request.headers.get('authorization', '')}" if fault.echo else f"made to fail with {fault.status}"
        return JSONResponse({"error": said}, fault.status, {"X-Error-Message": said} | fault.headers)

    async def _answer(self, request: Request) -> Response:
        path = request.scope["raw_path"].decode()
        for method, pattern, handler in ROUTES:
            found = pattern.fullmatch(path)
            if found and request.method in method.split("|"):
                parts = {name: unquote(value or "") for name, value in found.groupdict().items()}
                try:
                    return await handler(self, request, **parts)
                except RefusalError as refusal:
                    return JSONResponse({"error": refusal.headers["X-Error-Message"]}, refusal.status, refusal.headers)
        return JSONResponse({"error": f"no route for {path}"}, 404)

    def may_read(self, request: Request, kind: str, name: str) -> Repo:
        repo = self.repo(kind, name)
        if repo.private and request.headers.get("authorization") != f"Bearer {TOKEN}":
            raise RefusalError(401, "RepoNotFound", "Repository not found")
        return repo

    def may_look_inside(self, request: Request, kind: str, name: str) -> Repo:
        """Of a gated repository everybody sees that it is there, and a few its files."""
        repo = self.may_read(request, kind, name)
        if repo.gated:
            raise RefusalError(
                403, "GatedRepo", f"Access to {name} is restricted and you are not in the authorized list."
            )
        return repo

    def may_write(self, request: Request, name: str) -> None:
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            raise RefusalError(401, "", "Invalid username or password.")
        if name.split("/")[0] not in ORGS:
            raise RefusalError(403, "", f"You don't have the rights to create or change {name}")


def route(method: str, pattern: str):
    names = {
        "{kind}": "(?P<kind>models|datasets|spaces)",
        "{repo}": "(?P<repo>[^/]+/[^/]+?)",
        "{prefix}": "(?:(?P<kind>datasets|spaces)/)?",
        "{rev}": "(?P<rev>[^/]+)",
    }
    for name, regex in names.items():
        pattern = pattern.replace(name, regex)

    def register(handler: Callable) -> Callable:
        ROUTES.append((method, re.compile(pattern), handler))
        return handler

    return register


# ------------------------------------------------------------------------------------------------ accounts, repositories


@route("GET", "/api/whoami-v2")
async def whoami(hub: Hub, request: Request) -> Response:
    hub.may_write(request, f"{USER}/-")
    orgs = [{"name": name, "type": "org"} for name in ORGS if name != USER]
    return JSONResponse({"type": "user", "name": USER, "orgs": orgs, "auth": {"type": "access_token"}})


@route("POST", "/api/repos/create")
async def create_repo(hub: Hub, request: Request) -> Response:
    asked = await request.json()
    kind, name = asked.get("type") or "model", f"{asked.get('organization') or USER}/{asked['name']}"
    hub.may_write(request, name)
    url = f"{hub.url}/{'' if kind == 'model' else kind + 's/'}{name}"
    if (kind, name) in hub.repos:
        return JSONResponse({"error": "You already created this repo", "url": url}, 409)
    if asked.get("sdk") not in FREE_SDKS and not hub.pro:
        raise RefusalError(402, "", "Gradio and Docker Spaces need a PRO account")
    private = asked.get("visibility") == "private" or bool(asked.get("private"))
    hub.create(kind, name, private=private, sdk=asked.get("sdk"))
    return JSONResponse({"url": url, "name": name, "id": name})


@route("GET", "/api/{kind}/{repo}(?:/revision/{rev})?")
async def about(hub: Hub, request: Request, kind: str, repo: str, rev: str) -> Response:
    found = hub.may_read(request, KINDS[kind], repo)
    commit = found.at(rev or "main")
    siblings = [{"rfilename": name} for name in sorted(commit.files)]
    said = {
        "id": repo,
        "sha": commit.oid,
        "private": found.private,
        "siblings": siblings,
        "tags": [],
        "downloads": 0,
        "likes": 0,
    }
    said |= {"author": repo.split("/")[0], "cardData": card_data(commit)} | ({"sdk": found.sdk} if found.sdk else {})
    return JSONResponse(said)


def card_data(commit: Commit) -> dict:
    card = commit.files["README.md"].content.decode() if "README.md" in commit.files else ""
    found = re.match(r"---\r?\n(.*?)\r?\n---", card, re.DOTALL)
    return (yaml.safe_load(found[1]) or {}) if found else {}


@route("GET", "/api/{kind}/{repo}/refs")
async def refs(hub: Hub, request: Request, kind: str, repo: str) -> Response:
    found = hub.may_read(request, KINDS[kind], repo)
    branches = [
        {"name": name, "ref": f"refs/heads/{name}", "targetCommit": commits[-1].oid}
        for name, commits in found.branches.items()
    ]
    tags = [
        {"name": name, "ref": f"refs/tags/{name}", "targetCommit": commit.oid} for name, commit in found.tags.items()
    ]
    return JSONResponse({"branches": branches, "tags": tags, "converts": []})


@route("GET", "/api/{kind}/{repo}/commits/{rev}")
async def commits(hub: Hub, request: Request, kind: str, repo: str, rev: str) -> Response:
    found = hub.may_read(request, KINDS[kind], repo)
    found.at(rev)
    past = [
        {"id": one.oid, "title": one.title, "message": "", "date": "2026-01-01T00:00:00.000Z", "authors": []}
        for one in reversed(found.branches.get(rev, []))
    ]
    return JSONResponse(past)


@route("POST", "/api/{kind}/{repo}/(?P<what>branch|tag)/(?P<name>[^/]+)")
async def name_commit(hub: Hub, request: Request, kind: str, repo: str, what: str, name: str) -> Response:
    hub.may_write(request, repo)
    found, asked = hub.repo(KINDS[kind], repo), await request.json()
    if what == "tag":
        found.tags[asked["tag"]] = found.at(name)
    elif name in found.branches:
        raise RefusalError(409, "", "Reference already exists")
    else:
        found.branches[name] = [found.at(asked.get("startingPoint") or "main")]
    return Response()


@route("POST", "/api/validate-yaml")
async def validate_yaml(hub: Hub, request: Request) -> Response:
    asked, errors = await request.json(), []
    try:
        found = re.match(r"---\r?\n(.*?)\r?\n---", asked["content"], re.DOTALL)
        yaml.safe_load(found[1] if found else "")
    except yaml.YAMLError as error:
        errors = [{"message": str(error).split("\n")[0]}]
    return JSONResponse({"errors": errors, "warnings": []}, 400 if errors else 200)


# --------------------------------------------------------------------------------------------------------- uploading


@route("POST", "/api/{kind}/{repo}/preupload/{rev}")
async def preupload(hub: Hub, request: Request, kind: str, repo: str, rev: str) -> Response:
    hub.may_write(request, repo)
    there = hub.repo(KINDS[kind], repo).at(rev).files
    ignored = there[".gitignore"].content.decode().split() if ".gitignore" in there else []
    answers = []
    for file in (await request.json())["files"]:
        path = file["path"]
        binary = b"\0" in base64.b64decode(file.get("sample", ""))
        mode = "lfs" if path.endswith(LFS) or binary or file["size"] > 10_000_000 else "regular"
        oid = (there[path].sha256 if there[path].lfs else there[path].oid) if path in there else None
        answers.append({"path": path, "uploadMode": mode, "shouldIgnore": path in ignored, "oid": oid})
    return JSONResponse({"files": answers})


@route("POST", r"/{prefix}{repo}\.git/info/lfs/objects/batch")
async def lfs_batch(hub: Hub, request: Request, kind: str, repo: str) -> Response:
    hub.may_write(request, repo)
    hub.repo(KINDS[kind or "models"], repo)
    answers = []
    for wanted in (await request.json())["objects"]:
        href = f"{hub.url}/lfs/{wanted['oid']}"
        actions = {"upload": {"href": href}, "verify": {"href": f"{href}/verify"}}
        answers.append(wanted | ({} if wanted["oid"] in hub.lfs else {"actions": actions}))
    return JSONResponse({"transfer": "basic", "objects": answers}, media_type="application/vnd.git-lfs+json")


@route("PUT", "/lfs/(?P<oid>[0-9a-f]{64})")
async def lfs_put(hub: Hub, request: Request, oid: str) -> Response:
    content = await request.body()
    if hashlib.sha256(content).hexdigest() != oid:
        raise RefusalError(400, "", "sha256 does not match")
    hub.lfs[oid] = content
    return Response()


@route("POST", "/lfs/(?P<oid>[0-9a-f]{64})/verify")
async def lfs_verify(hub: Hub, request: Request, oid: str) -> Response:
    asked = await request.json()
    return Response(status_code=200 if oid in hub.lfs and len(hub.lfs[oid]) == asked["size"] else 404)


@route("GET", "/api/{kind}/{repo}/xet-write-token/{rev}")
async def xet_token(hub: Hub, request: Request, kind: str, repo: str, rev: str) -> Response:
    """`hf_xet` 1.8 takes a folder for a store, which is documented nowhere."""
    hub.may_write(request, repo)
    if hub.xet is None:
        raise RefusalError(404, "", "no Xet here")
    ends, url = int(time.time()) + 3600, f"local://{hub.xet}"
    headers = {"X-Xet-Cas-Url": url, "X-Xet-Access-Token": "x", "X-Xet-Token-Expiration": str(ends)}
    return JSONResponse({"accessToken": "x", "exp": ends, "casUrl": url}, headers=headers)


def fetch_from_xet(hub: Hub, sha256: str, size: int) -> None:
    """Put a file together from the pieces in the store, of which the client may still hold the lock."""
    import hf_xet

    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(hub.xet, f"{folder}/store")
        name = xet_names(Path(folder, "store")).get(sha256)
        if name is None:
            return
        files = {
            "endpoint": f"local://{folder}/store",
            "token": "x",
            "token_expiry_unix_secs": int(time.time()) + 3600,
        }
        with hf_xet.XetSession().new_file_download_group(**files) as group:
            group.start_download_file(hf_xet.XetFileInfo(name, size), f"{folder}/file")
        content = Path(folder, "file").read_bytes()
    assert hashlib.sha256(content).hexdigest() == sha256
    hub.lfs[sha256] = content


def xet_names(store: Path) -> dict[str, str]:
    """sha256 -> Xet's own hash of every file in the store, as its shards list them in records of 48 bytes."""

    def text(hashed: bytes) -> str:
        return "".join(f"{part:016x}" for part in struct.unpack("<4Q", hashed))

    found = {}
    for path in store.rglob("*.mdb"):
        shard, place = path.read_bytes(), 48
        while (hashed := shard[place : place + 32]) != b"\xff" * 32:
            flags, pieces, _ = struct.unpack_from("<IIQ", shard, place + 32)
            place += 48 * (1 + pieces * (1 + (flags >> 31)))  # the file, its pieces, and what verifies each
            if flags >> 30 & 1:
                found[text(shard[place : place + 32])] = text(hashed)
                place += 48
    return found


@route("POST", "/api/{kind}/{repo}/commit/{rev}")
async def commit(hub: Hub, request: Request, kind: str, repo: str, rev: str) -> Response:
    hub.may_write(request, repo)
    found, lines = (
        hub.repo(KINDS[kind], repo),
        [json.loads(line) for line in (await request.body()).splitlines() if line],
    )
    if rev not in found.branches:
        raise RefusalError(404, "RevisionNotFound", f"Invalid rev id: {rev}")
    header, files = {}, dict(found.at(rev).files)
    for line in lines:
        value = line["value"]
        if line["key"] == "header":
            header = value
        elif line["key"] == "file":
            files[value["path"]] = Blob(base64.b64decode(value["content"]), False)
        elif line["key"] == "lfsFile":
            if value["oid"] not in hub.lfs and hub.xet:
                await asyncio.to_thread(fetch_from_xet, hub, value["oid"], value["size"])
            if value["oid"] not in hub.lfs:
                raise RefusalError(400, "", f"LFS object {value['oid']} was not uploaded")
            files[value["path"]] = Blob(hub.lfs[value["oid"]], True)
        elif line["key"] == "deletedFile":
            del files[value["path"]]
        else:
            raise RefusalError(400, "", f"unknown operation {line['key']}")
    if header.get("parentCommit") not in (None, found.at(rev).oid):
        raise RefusalError(412, "", "A commit has happened since. Please refresh and try again.")
    made = found.commit(rev, files, header["summary"])
    url = f"{hub.url}/{'' if kind == 'models' else kind + '/'}{repo}/commit/{made.oid}"
    return JSONResponse({"success": True, "commitOid": made.oid, "commitUrl": url, "hookOutput": ""})


# ----------------------------------------------------------------------------------------------------------- reading


@route("GET", "/api/{kind}/{repo}/tree/{rev}(?:/(?P<folder>.*))?")
async def tree(hub: Hub, request: Request, kind: str, repo: str, rev: str, folder: str) -> Response:
    files = hub.may_read(request, KINDS[kind], repo).at(rev).files
    deep = request.query_params.get("recursive", "").lower() == "true"
    inside = f"{folder.strip('/')}/" if folder.strip("/") else ""
    entries: dict[str, dict] = {}
    for path, blob in sorted(files.items()):
        if not path.startswith(inside):
            continue
        steps = path.removeprefix(inside).split("/")
        for depth in range(1, len(steps) if deep else min(2, len(steps))):
            parent = inside + "/".join(steps[:depth])
            entries.setdefault(parent, {"type": "directory", "path": parent, "oid": "0" * 40, "size": 0})
        if deep or len(steps) == 1:
            entries[path] = entry(path, blob)
    if inside and not entries:
        raise RefusalError(404, "EntryNotFound", f"{folder} does not exist")
    start = int(request.query_params.get("cursor", 0))
    page = list(entries.values())[start : start + hub.page]
    more = start + hub.page < len(entries)
    base = f"{hub.url}{request.scope['raw_path'].decode()}?recursive={deep}&cursor={start + hub.page}"
    return JSONResponse(page, headers={"Link": f'<{base}>; rel="next"'} if more else {})


def entry(path: str, blob: Blob) -> dict:
    found = {"type": "file", "path": path, "oid": blob.oid, "size": len(blob.content)}
    return found | ({"lfs": {"oid": blob.sha256, "size": len(blob.content), "pointerSize": 130}} if blob.lfs else {})


@route("POST", "/api/{kind}/{repo}/paths-info/{rev}")
async def paths_info(hub: Hub, request: Request, kind: str, repo: str, rev: str) -> Response:
    files = hub.may_read(request, KINDS[kind], repo).at(rev).files
    form = "form" in request.headers.get("content-type", "")
    asked = (await request.form()).getlist("paths") if form else (await request.json())["paths"]
    found = [entry(path, files[path]) for path in asked if path in files]
    folders = [path for path in asked if any(name.startswith(f"{path}/") for name in files)]
    return JSONResponse(found + [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in folders])


@route("GET|HEAD", "/{prefix}{repo}/(?:resolve|raw)/{rev}/(?P<path>.+)")
async def resolve(hub: Hub, request: Request, kind: str, repo: str, rev: str, path: str) -> Response:
    commit = hub.may_look_inside(request, KINDS[kind or "models"], repo).at(rev)
    said = {"X-Repo-Commit": commit.oid}
    if path not in commit.files:
        raise RefusalError(404, "EntryNotFound", f"{path} does not exist", **said)
    blob = commit.files[path]
    if not blob.lfs:
        return ranged(request, blob.content, said | {"ETag": f'"{blob.oid}"'})
    said |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.content)), "ETag": f'"{blob.sha256}"'}
    if hub.redirect:  # the Hub sends to another host; one of the same name, the client would follow too early
        return Response(status_code=302, headers=said | {"Location": f"http://localhost:{hub.port}/lfs/{blob.sha256}"})
    return ranged(request, blob.content, said)


@route("GET|HEAD", "/lfs/(?P<oid>[0-9a-f]{64})")
async def lfs_get(hub: Hub, request: Request, oid: str) -> Response:
    return ranged(request, hub.lfs[oid], {"ETag": f'"{oid}"'})


def ranged(request: Request, content: bytes, headers: dict[str, str]) -> Response:
    headers = headers | {"Accept-Ranges": "bytes"}
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
    if not asked or asked[0] == "bytes=-":
        return Response(content, 200, headers, "application/octet-stream")
    last = len(content) - 1
    start = int(asked[1]) if asked[1] else len(content) - int(asked[2])
    stop = min(int(asked[2]), last) if asked[1] and asked[2] else last
    if start > last:
        return Response(status_code=416, headers={"Content-Range": f"bytes */{len(content)}"})
    headers |= {"Content-Range": f"bytes {start}-{stop}/{len(content)}"}
    return Response(content[start : stop + 1], 206, headers, "application/octet-stream")


# ------------------------------------------------------------------------------------------------------- Collections


@route("POST", "/api/collections")
async def create_collection(hub: Hub, request: Request) -> Response:
    asked = await request.json()
    hub.may_write(request, f"{asked['namespace']}/-")
    title = asked["title"]
    slug = f"{asked['namespace']}/{re.sub('[^a-z0-9]+', '-', title.lower())}-{hashlib.md5(title.encode()).hexdigest()[:24]}"
    if slug in hub.collections:
        return JSONResponse({"slug": slug, "error": "it exists"}, 409)
    owner = {"name": asked["namespace"], "type": "org"}
    made = {"slug": slug, "title": title, "owner": owner, "items": [], "private": asked.get("private", False)}
    hub.collections[slug] = made | {
        "lastUpdated": "2026-01-01T00:00:00.000Z",
        "position": 0,
        "theme": "blue",
        "upvotes": 0,
    }
    return JSONResponse(hub.collections[slug])


@route("GET", "/api/collections/(?P<slug>[^/]+/[^/]+)")
async def collection(hub: Hub, request: Request, slug: str) -> Response:
    if slug not in hub.collections:
        raise RefusalError(404, "", f"no Collection {slug}")
    return JSONResponse(hub.collections[slug])


@route("POST", "/api/collections/(?P<slug>[^/]+/[^/]+)/items")
async def add_item(hub: Hub, request: Request, slug: str) -> Response:
    hub.may_write(request, slug)
    asked = await request.json()
    if slug not in hub.collections:
        raise RefusalError(404, "", f"no Collection {slug}")
    items = hub.collections[slug]["items"]
    if any(item["id"] == asked["item"]["id"] and item["type"] == asked["item"]["type"] for item in items):
        raise RefusalError(409, "", "it is in this Collection already")
    note = {"text": asked["note"]} if asked.get("note") else None
    items.append(asked["item"] | {"_id": str(len(items)), "position": len(items), "note": note})
    return JSONResponse(hub.collections[slug])


# -------------------------------------------------------------------------------------------------------------- Jobs


@route("POST", "/api/jobs/(?P<namespace>[^/]+)")
async def start_job(hub: Hub, request: Request, namespace: str) -> Response:
    hub.may_write(request, f"{namespace}/-")
    asked = await request.json()
    hub.jobs.append(asked)
    said = {key: asked.get(key) for key in ("dockerImage", "command", "arguments", "environment", "flavor", "labels")}
    owner = {"id": "0", "name": namespace, "type": "user"}
    status = {"stage": "RUNNING", "message": None}
    return JSONResponse(said | {"id": str(len(hub.jobs)), "secrets": {}, "owner": owner, "status": status})
