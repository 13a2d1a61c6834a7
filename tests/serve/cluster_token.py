"""A Ray of its own whose runtime_env holds the user's token, as `ray.init(runtime_env=…)` gives it to everything.

`python -m tests.serve.cluster_token FOLDER SOCKET URI TOKEN` prints where a replica found the model, or why it did not.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from ray import serve

from tests.demo.local_ray import LocalRay


@serve.deployment(ray_actor_options={"num_cpus": 0})
class Reader:
    def __init__(self, uri: str) -> None:
        from serve_integration import hold_for_replica

        self.path = hold_for_replica(uri, fallback="error")

    def __call__(self) -> tuple[str, list[str]]:
        return self.path, sorted(os.listdir(self.path))


def main(folder: str, socket: str, uri: str, token: str) -> None:
    variables = {"HF_TOKEN": token, "CACHED_SOCKET": socket}
    with LocalRay(Path(folder), runtime_env={"env_vars": variables}) as local:
        application: Any = Reader.bind(uri)  # type: ignore[attr-defined]
        try:
            handle = serve.run(application, name="reader", route_prefix=None)
        except RuntimeError:
            print(local.trouble("reader"))
        else:
            print(*handle.remote().result())


if __name__ == "__main__":
    main(*sys.argv[1:])
