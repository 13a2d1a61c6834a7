"""Rewriting configurations. Needs Ray, but no cluster."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.serve

SPELLED = "serve_integration.CachedModelCallback"


def config(**more: Any) -> Any:
    from ray.serve.llm import LLMConfig

    loading = {"model_id": "chat", "model_source": "s3://bucket/prefix"}
    return LLMConfig(**{"model_loading_config": loading, "engine_kwargs": {"max_model_len": 64}, **more})


def rewritten(original: Any, **options: Any) -> Any:
    from serve_integration import cached_llm_config

    return cached_llm_config(original, **options)


def test_the_copy_has_the_callback_and_the_original_stays_as_it_was() -> None:
    original = config()
    before = original.model_dump()
    copy = rewritten(original, fallback="error", socket=Path("/tmp/s"))
    assert copy.callback_config.callback_class == SPELLED
    assert copy.callback_config.callback_kwargs == {"fallback": "error", "socket": "/tmp/s"}
    copy.engine_kwargs["max_model_len"] = 1
    assert original.model_dump() == before


def test_what_the_config_already_says_stays_unless_it_is_given_again() -> None:
    first = rewritten(config(), fallback="error", timeout=60)
    second = rewritten(first, timeout=90)
    assert second.callback_config.callback_kwargs == {"fallback": "error", "timeout": 90.0}


def test_whether_an_error_fails_the_replica_stays_the_users_choice() -> None:
    from ray.llm._internal.common.callbacks.base import CallbackConfig

    copy = rewritten(config(callback_config=CallbackConfig(raise_error_on_callback=False)))
    assert copy.callback_config.raise_error_on_callback is False


def test_a_class_of_ours_is_kept_derived_ones_too() -> None:
    from ray.llm._internal.common.callbacks.base import CallbackConfig

    from serve_integration import CachedModelCallback

    class Mine(CachedModelCallback):
        pass

    for kind in (CachedModelCallback, Mine, "serve_integration:CachedModelCallback"):
        copy = rewritten(config(callback_config=CallbackConfig(callback_class=kind)), fallback="error")
        assert copy.callback_config.callback_class == kind
        assert copy.callback_config.callback_kwargs == {"fallback": "error"}


def test_a_derived_callback_may_be_named_as_ray_names_it_and_must_be_importable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_callbacks.py").write_text(
        "from serve_integration import CachedModelCallback\nclass Mine(CachedModelCallback): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("own_callbacks.Mine", "own_callbacks:Mine"):
        copy = rewritten(config(callback_config={"callback_class": name}), fallback="error")
        assert copy.callback_config.callback_class == name
        assert copy.callback_config.callback_kwargs == {"fallback": "error"}
    for name, why in (("nowhere.Mine", "Could not import nowhere"), ("own_callbacks.Yours", "no attribute 'Yours'")):
        with pytest.raises(ValueError, match=f"'chat' has the callback {name}, which cannot be loaded here: .*{why}"):
            rewritten(config(callback_config={"callback_class": name}))


def test_a_callback_of_the_users_own_is_refused_by_name() -> None:
    taken = "ray.llm._internal.common.callbacks.cloud_downloader.CloudDownloader"
    with pytest.raises(ValueError, match=r"'chat' already has the callback .*CloudDownloader"):
        rewritten(config(callback_config={"callback_class": taken}))


def test_a_wrong_fallback_is_refused_where_it_is_written() -> None:
    with pytest.raises(ValueError, match="'fallback' must be"):
        rewritten(config(), fallback="never")


def test_the_builder_takes_dictionaries_files_and_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from serve_integration import app

    seen: list[Any] = []
    monkeypatch.setattr(app, "build_ray_app", seen.append)
    path = tmp_path / "config.yaml"
    path.write_text("model_loading_config: {model_id: two, model_source: org/two}\n")
    one = {"model_loading_config": {"model_id": "one", "model_source": {"bucket_uri": "gs://bucket/one"}}}
    app.build_openai_app({"llm_configs": [one, str(path), config()], "cached": {"fallback": "error"}})
    (serving,) = seen
    assert [item.model_id for item in serving.llm_configs] == ["one", "two", "chat"]
    assert {item.callback_config.callback_class for item in serving.llm_configs} == {SPELLED}
    assert all(item.callback_config.callback_kwargs == {"fallback": "error"} for item in serving.llm_configs)


def test_an_argument_that_ray_does_not_know_is_still_refused() -> None:
    from serve_integration import build_openai_app

    with pytest.raises(ValueError, match="llm_confs"):
        build_openai_app({"llm_configs": [], "llm_confs": []})


def test_serve_accepts_the_builder_as_a_function_of_one_argument() -> None:
    code = (
        "import types, inspect, serve_integration as s;"
        "f = s.build_openai_app; assert isinstance(f, types.FunctionType) and len(inspect.signature(f).parameters) == 1"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
