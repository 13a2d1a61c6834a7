"""Ray Serve on this machine alone, for the demo and the tests: started with one call, and gone after the other."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import secrets
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray._private import auto_init_hook

from tests.demo.shared_memory import swept
from tests.servers.process import free_port

# Threads of Serve's outlive a Ray, and their next call would start another one, which nobody ends.
auto_init_hook.enable_auto_connect = False

DEPLOY_SECONDS = 600.0
_NOT_YET = (404, 503)  # Serve's proxy does not know the route yet, or the replica.
_TOKEN = secrets.token_hex(32)  # Ray keeps the first one that a process has shown, for every Ray that it starts.
_FAILED = ("DEPLOY_FAILED", "UNHEALTHY")
_LINE = re.compile(
    r"(?P<at>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) .*cached: model=(?P<model>\S+) path=(?P<path>\S+) "
    r"digest=(?P<digest>\S+) revision=\S+ (?P<outcome>hit|miss) seconds=(?P<seconds>\S+) bytes=(?P<bytes>\d+)"
)
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",  # Whatever a replica loads comes from the cache.
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}


class DeployFailed(Exception):
    """The application did not come up; the message is what Serve's status says."""


@dataclass(frozen=True)
class Loaded:
    """What a replica logged when it held its model."""

    at: float  # Seconds since the epoch.
    model: str
    path: str
    digest: str
    hit: bool
    seconds: float
    size: int


class LocalRay:
    """A block in which Ray Serve runs. Its own files are below `folder`, whose path must be short."""

    def __init__(
        self,
        folder: Path,
        *,
        dashboard: bool = False,
        runtime_env: dict[str, Any] | None = None,
        **environment: str | None,
    ) -> None:
        """`environment` of Ray and what it starts, added to ENVIRONMENT; None takes a variable out of that."""
        self.folder = folder
        self.url = f"http://127.0.0.1:{free_port()}"
        self.dashboard = f"http://127.0.0.1:{free_port()}" if dashboard else ""
        self._runtime_env = runtime_env
        # An engine that is killed leaves its sockets behind: they go with the folder.
        own = {"RAY_AUTH_TOKEN": _TOKEN, "VLLM_RPC_BASE_PATH": str(folder)}
        every = {**ENVIRONMENT, **own, **environment}
        self._environment = {name: value for name, value in every.items() if value is not None}

    def __enter__(self) -> LocalRay:
        self._ending = contextlib.ExitStack()
        self._ending.enter_context(swept())
        self._ending.callback(self._restore, dict(os.environ))
        os.environ.update(self._environment)
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        try:
            ray.init(
                address="local",
                num_cpus=16,  # Logical ones: Serve reserves one for each of its parts, on a machine that may have two.
                include_dashboard=bool(self.dashboard),
                dashboard_port=_port(self.dashboard) if self.dashboard else None,
                object_store_memory=100 << 20,
                configure_logging=False,
                log_to_driver=False,
                runtime_env=self._runtime_env,
                _temp_dir=str(self.folder),
            )
            self.serve()
        except BaseException:
            self._end()
            raise
        return self

    def serve(self) -> None:
        """Start Serve; again after a shutdown."""
        serve.start(http_options={"host": "127.0.0.1", "port": _port(self.url)})

    def __exit__(self, *_: object) -> None:
        try:
            for name in list(serve.status().applications):  # Ended well, engines end with their replicas.
                serve.delete(name)
        finally:
            self._end()

    def _end(self) -> None:
        with self._ending:
            ray.shutdown()

    def _restore(self, before: dict[str, str]) -> None:
        for name in self._environment:
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]

    def deploy(self, application: Any, name: str) -> None:
        """Hand it to Serve, at the route of its name; returns before it runs."""
        target = serve.RunTarget(application, name=name, route_prefix=f"/{name}")
        serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)

    def trouble(self, name: str) -> str:
        """What Serve's status says about the application and its deployments."""
        application = serve.status().applications.get(name)
        if application is None:
            return ""
        return "\n".join([application.message, *(part.message for part in application.deployments.values())])

    def wait(self, name: str) -> None:
        """Until the application runs; DeployFailed when it does not."""
        deadline = time.monotonic() + DEPLOY_SECONDS
        while True:
            application = serve.status().applications.get(name)
            state = application.status if application else "NOT_STARTED"
            if state == "RUNNING":
                return
            if state in _FAILED or time.monotonic() > deadline:
                raise DeployFailed(f"{name} is {state}: {self.trouble(name)}")
            time.sleep(0.2)  # Polling a condition, with a deadline.

    def wait_for_trouble(self, name: str, text: str) -> str:
        """Until Serve's status holds this text; all that it says then."""
        deadline = time.monotonic() + DEPLOY_SECONDS
        while text not in (said := self.trouble(name)):
            if time.monotonic() > deadline:
                raise DeployFailed(f"{text!r} does not show in the status of {name}: {said}")
            time.sleep(0.2)
        return said

    def chat(self, name: str, model: str) -> str:
        """One chat completion; the answer's text. An OSError while nobody answers yet."""
        body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8, "temperature": 0}
        request = urllib.request.Request(
            f"{self.url}/{name}/v1/chat/completions",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            if error.code in _NOT_YET:
                raise
            raise DeployFailed(f"{name} answered {error.code}: {error.read().decode()[-2000:]}") from error
        if answer["usage"]["completion_tokens"] < 1:
            raise DeployFailed(f"{name} answered without a token: {answer}")
        return str(answer["choices"][0]["message"]["content"])

    def first_chat(self, name: str, model: str) -> str:
        """Wait until the application runs and Serve's proxy knows its route, and chat."""
        self.wait(name)
        deadline = time.monotonic() + 60
        while True:
            try:
                return self.chat(name, model)
            except urllib.error.URLError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def delete(self, name: str) -> None:
        """Returns when its replicas have ended."""
        serve.delete(name)

    def loaded(self) -> list[Loaded]:
        """What the replicas of all applications have logged so far, oldest first."""
        logs = self.folder.glob("session_[0-9]*/logs/serve/replica_*.log")
        lines = [match for log in logs for match in map(_LINE.search, log.read_text(errors="replace").splitlines())]
        return sorted((_parse(match) for match in lines if match), key=lambda found: found.at)


def _parse(match: re.Match[str]) -> Loaded:
    at = datetime.strptime(match["at"], "%Y-%m-%d %H:%M:%S,%f").timestamp()
    hit = match["outcome"] == "hit"
    return Loaded(at, match["model"], match["path"], match["digest"], hit, float(match["seconds"]), int(match["bytes"]))


def _port(url: str) -> int:
    return int(url.rpartition(":")[2])


def serving_args(model_id: str, source: Any, **more: Any) -> dict[str, Any]:
    """The arguments of build_openai_app for one small model on one CPU, or on a GPU where there is one."""
    bundle: dict[str, float] = {"CPU": 1}
    engine: dict[str, Any] = {"max_model_len": 256, "enforce_eager": True}
    if _has_gpu():
        bundle["GPU"] = 1
        engine["gpu_memory_utilization"] = 0.2
    config = {
        "model_loading_config": {"model_id": model_id, "model_source": source},
        "placement_group_config": {"bundles": [bundle]},
        "engine_kwargs": engine,
        "deployment_config": {"num_replicas": 1},
        "log_engine_metrics": False,
        **more,
    }
    return {"llm_configs": [config], "ingress_deployment_config": {"num_replicas": 1}}


def _has_gpu() -> bool:
    import torch

    return bool(torch.cuda.is_available())
