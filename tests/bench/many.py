"""A store of ten thousand small models, laid on the disk as the store would have: it finds them when it starts."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from cached.model import Digest, Manifest, ManifestFile
from cached.model_ref import ModelRef
from cached.store.layout import Layout
from cached.store.startup.root_lock import RootLock

OWN = 10  # Blobs of each model that no other has …
SHARED = ("config.json", "tokenizer/tokenizer.json")  # … and names that all of them have of a few.
_KINDS = 100  # Different contents of each shared name.


def build(root: Path, models: int) -> None:
    """About OWN blobs and one snapshot for each; no index."""
    layout = Layout(root)
    RootLock.take(layout).close()
    shared = [_blob(layout, f"{name} {number}".encode()) for number in range(_KINDS) for name in SHARED]
    for number in range(models):
        own = [_blob(layout, f"{number} {part}".encode()) for part in range(OWN)]
        names = [f"model-{part + 1:05}-of-{OWN:05}.safetensors" for part in range(OWN)]
        kind = number % _KINDS * len(SHARED)
        files = [*zip(names, own, strict=True), *zip(SHARED, shared[kind:], strict=False)]
        _snapshot(layout, ref(number), Manifest(tuple(ManifestFile(name, size, blob) for name, (blob, size) in files)))


def ref(number: int) -> ModelRef:
    return ModelRef.parse(f"hf://bench/model-{number}", revision(number))


def revision(number: int) -> str:
    """A commit, which is good for ever."""
    return hashlib.sha1(str(number).encode()).hexdigest()


def _blob(layout: Layout, data: bytes) -> tuple[Digest, int]:
    digest = Digest.of(data)
    fd = os.open(f"{layout.blobs}/{digest.hex[:2]}/{digest.hex}", os.O_WRONLY | os.O_CREAT, 0o444)
    os.write(fd, data)
    os.fchmod(fd, 0o444)
    os.close(fd)
    return digest, len(data)


def _snapshot(layout: Layout, of: ModelRef, manifest: Manifest) -> None:
    path = str(layout.snapshot(manifest.digest))
    os.mkdir(path)
    for folder in manifest.folders:
        os.mkdir(f"{path}/{folder}")
    for file in manifest.files:
        os.link(f"{layout.blobs}/{file.digest.hex[:2]}/{file.digest.hex}", f"{path}/{file.path}")
    for folder in manifest.folders:
        os.chmod(f"{path}/{folder}", 0o555)
    os.chmod(path, 0o555)
    files = [{"path": file.path, "size": file.size, "digest": str(file.digest)} for file in manifest.files]
    value = {"ref": of.key, "source": str(of), "revision": of.revision, "access": "open", "files": files}
    written = layout.manifest(manifest.digest)
    written.write_text(json.dumps(value, indent=1))
    written.chmod(0o400)
