"""What may be said in `callback_kwargs`."""

from __future__ import annotations

import subprocess
import sys

import pytest

from serve_integration.settings import Settings


def test_nothing_said_means_fall_back_to_the_source() -> None:
    assert Settings.of({}) == Settings(fallback="remote", socket=None)


def test_patterns_from_yaml_are_lists() -> None:
    assert Settings.of({"exclude": ["*.bin", "original/*"]}).exclude == ("*.bin", "original/*")
    assert Settings.of({"include": "*.json"}).include == ("*.json",)


def test_only_what_differs_from_the_defaults_is_written_back() -> None:
    given = {"fallback": "error", "timeout": 60, "max_age": None}
    assert Settings.of(given).plain() == {"fallback": "error", "timeout": 60.0}
    assert Settings.of(Settings.of(given).plain()) == Settings.of(given)


@pytest.mark.parametrize(("said", "share"), [(True, 0.5), (None, 0.5), (False, 0.0), (0.25, 0.25), (1, 1.0), (0, 0.0)])
def test_reading_ahead_is_a_share_of_memory_or_yes_or_no(said: object, share: float) -> None:
    settings = Settings.of({"prefetch": said})
    assert settings.prefetch == share
    assert Settings.of(settings.plain()) == settings


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"fallbck": "error"}, "'fallbck'"),
        ({"fallback": "maybe"}, "'maybe'"),
        ({"timeout": "soon"}, "'soon'"),
        ({"max_age": -1}, "-1"),
        ({"include": 3}, "'include'"),
        ({"prefetch": 1.5}, "1.5"),
        ({"prefetch": "much"}, "'much'"),
        ({"lora_path": "org/loras"}, "'org/loras'"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_sentence(given: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named) as raised:
        Settings.of(given)
    assert str(raised.value).endswith(".")
    assert "\n" not in str(raised.value)


def test_importing_the_integration_does_not_import_ray() -> None:
    code = "import serve_integration, sys; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_a_name_that_the_integration_does_not_have_is_an_attribute_error() -> None:
    import serve_integration

    with pytest.raises(AttributeError, match="build_app"):
        serve_integration.build_app  # noqa: B018
