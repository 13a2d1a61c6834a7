"""What a replica does about its model and no more: an actor in a placement group, with neither Serve nor an engine."""

from __future__ import annotations

from typing import Any


def replica_class() -> type:
    """Made in a function, so that Ray ships it as it is to workers that cannot import the tests."""

    class Replica:
        def __init__(self) -> None:
            import logging

            self.said: list[str] = []
            logger = logging.getLogger("ray.serve.cached")
            logger.setLevel(logging.INFO)
            keep = logging.Handler()
            keep.emit = lambda record: self.said.append(f"{record.levelname} {record.getMessage()}")
            logger.addHandler(keep)

        def other_nodes(self) -> list[str]:
            import ray

            from serve_integration import CachedModelCallback

            context = {"placement_group": ray.util.get_current_placement_group()}
            return CachedModelCallback(None, ctx_kwargs=context)._other_nodes()

        async def load(self, uri: str, lean: bool = False) -> Any:
            """What is held here, or the kind of an error and its sentence."""
            from cached import CachedError
            from serve_integration.models.model_source import Reference
            from serve_integration.replica.replica_lease import keep, take
            from serve_integration.settings import Settings

            try:
                return keep(await take(Reference(uri, lean=lean), Settings(), self.other_nodes(), None))
            except CachedError as error:
                return type(error).__name__, error.message

        def log(self) -> list[str]:
            return self.said

        def pid(self) -> int:
            import os

            return os.getpid()

    return Replica
