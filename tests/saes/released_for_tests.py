"""Made-up files of Gemma Scope, and a hub that a test has to itself: huggingface_hub's cache, or an endpoint."""

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def gemma_arrays(width_in: int = 16, width: int = 16, features: int = 40, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    shapes = {"W_enc": (width_in, features), "b_enc": features, "W_dec": (features, width), "b_dec": width}
    arrays = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return {**arrays, "threshold": random.uniform(-0.5, 3, features).astype(np.float32)}


def gemma_folder(folder: Path, **arrays: np.ndarray) -> Path:
    folder.mkdir(parents=True)
    np.savez(folder / "params.npz", **(arrays or gemma_arrays()))
    return folder


def gemma_forward(arrays: dict[str, np.ndarray], x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features and reconstruction as the report has them (arXiv:2408.05147, section 2.2), in float64."""
    a = {name: array.astype(np.float64) for name, array in arrays.items()}
    pre = x @ a["W_enc"] + a["b_enc"]
    f = np.where(pre > a["threshold"], np.maximum(pre, 0), 0)
    return f, f @ a["W_dec"] + a["b_dec"]


def in_cache(cache: Path, repo: str, files: Path, revision: str = "main") -> Path:
    """A repository with the files of a folder, as huggingface_hub keeps it: blobs, links to them, and a reference."""
    store = cache / f"models--{repo.replace('/', '--')}"
    for path in sorted(files.rglob("*")):
        if path.is_file():
            blob = store / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
            blob.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, blob)
            link = store / "snapshots" / COMMIT / path.relative_to(files)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(blob)
    (store / "refs").mkdir(parents=True)
    (store / "refs" / revision).write_text(COMMIT)
    return store


@contextmanager
def endpoint(repos: dict[str, Path]) -> Iterator[tuple[str, list[str]]]:
    """An HTTP server that answers as the hub does, for what is needed here; its address, and the files that it sent."""
    sent: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            for repo, folder in repos.items():
                if path.startswith(f"/api/models/{repo}/revision/"):
                    if path.rsplit("/", 1)[1] not in ("main", COMMIT):
                        return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
                    siblings = [{"rfilename": f.relative_to(folder).as_posix()} for f in self.files(folder)]
                    return self.json({"id": repo, "modelId": repo, "sha": COMMIT, "siblings": siblings})
                if path == f"/api/models/{repo}":
                    return self.json({"id": repo, "modelId": repo, "sha": COMMIT})
                if path.startswith(f"/api/models/{repo}/tree/"):
                    return self.json([self.entry(folder, file) for file in self.files(folder)])
                if path.startswith(f"/{repo}/resolve/{COMMIT}/"):
                    name = path.removeprefix(f"/{repo}/resolve/{COMMIT}/")
                    if self.command == "GET":
                        sent.append(name)
                    data = (folder / name).read_bytes()
                    return self.answer(200, data, {"ETag": f'"{self.digest(data)}"', "X-Repo-Commit": COMMIT})
            return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

        @staticmethod
        def files(folder: Path) -> list[Path]:
            return [path for path in sorted(folder.rglob("*")) if path.is_file()]

        @staticmethod
        def digest(data: bytes) -> str:
            return hashlib.sha1(data).hexdigest()

        def entry(self, folder: Path, file: Path) -> dict[str, object]:
            data = file.read_bytes()
            path = file.relative_to(folder).as_posix()
            return {"type": "file", "path": path, "size": len(data), "oid": self.digest(data)}

        def json(self, value: object) -> None:
            self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", sent
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
