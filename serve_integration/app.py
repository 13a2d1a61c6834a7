"""The builder that `serve deploy` calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.serve import Application
from ray.serve.llm import LLMServingArgs
from ray.serve.llm import build_openai_app as build_ray_app

from serve_integration.config import cached_llm_config


def build_openai_app(args: dict[str, Any]) -> Application:
    """Build the application as `ray.serve.llm:build_openai_app` does, with every model loaded through the cache.

    Takes the arguments of Ray's builder: `llm_configs` as dictionaries, paths of YAML files or LLMConfig objects. It
    accepts one more key: `cached`, the settings of `cached_llm_config` for all of them; ValueError when they are not a
    mapping.
    """
    settings: Mapping[str, Any] = {}
    if isinstance(args, Mapping):
        settings = args.get("cached") or {}
        args = {name: value for name, value in args.items() if name != "cached"}
        if not isinstance(settings, Mapping):
            raise ValueError(f"The key 'cached' must hold settings such as {{'fallback': 'error'}}, not {settings!r}.")
    serving = LLMServingArgs.model_validate(args)
    configs = [cached_llm_config(config, **settings) for config in serving.llm_configs]
    return build_ray_app(serving.model_copy(update={"llm_configs": configs}))
