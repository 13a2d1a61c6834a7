"""Which protocols are open, and what it costs not to use them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cached.access import Credentials
from cached.config import Config
from cached.errors import InvalidRequest
from cached.model_ref import ModelRef
from cached.sources.registry import Registry

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "uri", ["memory://a/b", "https://host/file.bin", "file:///etc", "sftp://host/x", "local:///etc"]
)
def test_schemes_that_the_config_does_not_allow_are_refused(uri: str) -> None:
    with pytest.raises(InvalidRequest, match="protocols"):
        Registry(Config()).source_for(ModelRef.parse(uri))


@pytest.mark.parametrize("uri", ["nonsense://host/x", "sftp://127.0.0.1/x"])
def test_allowed_scheme_that_cannot_be_used_says_what_is_missing(uri: str) -> None:
    ref = ModelRef.parse(uri)
    source = Registry(Config(protocols=(ref.scheme,))).source_for(ref)
    with pytest.raises(InvalidRequest, match="install the protocol's package"):
        source.resolve(ref, Credentials(), 5)


def test_local_files_are_refused_outside_of_the_opened_folders(tmp_path: Path) -> None:
    inside, outside = tmp_path / "models", tmp_path / "models2"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "config.json").write_bytes(b"{}")
    (inside / "way-out").symlink_to(outside)
    registry = Registry(Config(protocols=("file",), file_roots=(str(inside),)))
    registry.source_for(ModelRef.parse(f"file://{inside}"))
    for path in (outside, inside / "way-out", inside / ".." / "models2", Path("/etc")):
        with pytest.raises(InvalidRequest, match="file_roots"):
            registry.source_for(ModelRef.parse(f"file://{path}"))
    with pytest.raises(InvalidRequest, match="file_roots"):
        Registry(Config(protocols=("file",))).source_for(ModelRef.parse(f"file://{inside}"))


def test_other_name_that_fsspec_has_for_local_files_is_no_way_around(tmp_path: Path) -> None:
    registry = Registry(Config(protocols=("local",), file_roots=(str(tmp_path),)))
    with pytest.raises(InvalidRequest, match="file:///"):
        registry.source_for(ModelRef.parse("local:///etc"))


def test_same_source_serves_every_ref_of_a_scheme() -> None:
    registry = Registry(Config())
    first, second = (registry.source_for(ModelRef.parse(uri)) for uri in ("org/a", "org/b"))
    assert first is second
    registry.close()


def test_registry_imports_no_library_until_a_scheme_is_used() -> None:
    script = (
        "import sys; from cached.config import Config; from cached.sources.registry import Registry\n"
        "Registry(Config())\n"
        "print([m for m in ('fsspec', 's3fs', 'gcsfs', 'botocore', 'huggingface_hub', 'httpx2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
