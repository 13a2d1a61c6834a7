"""Which disk a model goes to: judged by what would have to go there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from cached.access import Credentials
from cached.config import Config, Duration, Share, Size
from cached.daemon.access.callers import DAEMON, Caller
from cached.daemon.access.people import People
from cached.daemon.acquire.placement import Place, Places
from cached.daemon.space.disks import Disks
from cached.daemon.transfer.network import Network
from cached.daemon.transfer.workers import Workers
from cached.errors import AllHeld
from tests.daemon.rooms import KB, bring, here, lease, model, ready, used

USER = Caller(4001, Credentials(), 4001)


class TwoDisks:
    """Of 100 KB each."""

    def __init__(self, folder: Path) -> None:
        roots = (str(folder / "one"), str(folder / "two"))
        bounds = {"limit": Size(100 * KB), "keep_free": Size(0), "user_share": Share(0.5)}
        config = Config(roots=roots, min_residency=Duration(0), **bounds)  # type: ignore[arg-type]
        self.disks = Disks.open(config)
        self.places = Places(config, self.disks, cast(Workers, None), Network(config), People(config))
        self.one, self.two = self.places

    async def goes_to(self, caller: Caller, name: str, **sizes: int) -> Place:
        """Where it is ready then; the plan says the same beforehand."""
        disk, plan = await self.places.plan(model(name, **sizes), caller)
        place, reserved = await self.places.reserve(model(name, **sizes), caller)
        before = here(place.room)
        await ready(place.room, reserved)
        assert disk is place.disk
        assert before - here(place.room) == {victim.source.rpartition("/")[2] for victim in plan.victims}
        return place


@pytest.fixture
def two(tmp_path: Path) -> Iterator[TwoDisks]:
    made = TwoDisks(tmp_path)
    yield made
    made.disks.close()


async def test_a_model_goes_where_nothing_has_to_go_for_it(two: TwoDisks) -> None:
    await bring(two.one.room, "a", w=60)
    assert await two.goes_to(DAEMON, "new", w=50) is two.two


async def test_a_model_goes_where_what_has_to_go_was_last_used_the_longest_ago(two: TwoDisks) -> None:
    first, _ = await bring(two.one.room, "a", w=90), await bring(two.two.room, "b", w=60)
    used(two.one.room, [first])
    assert await two.goes_to(DAEMON, "new", w=50) is two.two
    assert here(two.one.room) == {"a"}


async def test_a_model_goes_where_it_may_take_room_even_if_the_other_disk_has_more(two: TwoDisks) -> None:
    fd = lease(two.one.room, await bring(two.one.room, "a", w=60))
    await bring(two.two.room, "b", w=80)
    assert await two.goes_to(DAEMON, "new", w=50) is two.two
    os.close(fd)


async def test_a_user_with_more_than_its_share_of_each_disk_is_refused_by_both(two: TwoDisks) -> None:
    for room in (two.one.room, two.two.room):
        await bring(room, "theirs", 4002, w=60)
    with pytest.raises(AllHeld, match="user_share"):
        await two.places.reserve(model("new", w=60), USER)
    _, plan = await two.places.plan(model("new", w=60), USER)
    assert plan.why is not None and "user_share" in plan.why
    assert here(two.one.room) == here(two.two.room) == {"theirs"}
