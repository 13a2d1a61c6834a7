"""Large files that are open at once: whatever others have open, who has nothing open is not kept waiting."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator

import pytest

from cached.daemon.transfer.open_files import OpenFiles

CONNECTIONS = 4
OF_MODEL = 2 * CONNECTIONS


class Files:
    """Files that are open until they are told to end; by model."""

    def __init__(self) -> None:
        self.shared = OpenFiles(CONNECTIONS)
        self.open: Counter[str] = Counter()
        self._whose = contextlib.ExitStack()
        self._ends: dict[str, list[asyncio.Event]] = {}
        self._tasks: list[tuple[str, asyncio.Task[None]]] = []

    async def ask(self, model: str, count: int, *uids: int) -> None:
        """So many files of the model, for these users from now on."""
        self._whose.enter_context(self.shared.wanted(model, set(uids)))
        self._tasks += [(model, asyncio.create_task(self._one(model))) for _ in range(count)]
        await settle()

    async def _one(self, model: str) -> None:
        async with self.shared.turn(model):
            self.open[model] += 1
            end = asyncio.Event()
            self._ends.setdefault(model, []).append(end)
            try:
                await end.wait()
            finally:
                self.open[model] -= 1

    def end(self, model: str) -> None:
        self._ends[model].pop(0).set()

    def give_up(self, model: str) -> None:
        for name, task in self._tasks:
            if name == model:
                task.cancel()

    def give_up_last(self) -> None:
        self._tasks[-1][1].cancel()

    def close(self) -> None:
        for _, task in self._tasks:
            task.cancel()
        self._whose.close()


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
def files() -> Iterator[Files]:
    made = Files()
    yield made
    made.close()


async def fill_the_node(files: Files) -> None:
    """The models of two users have all that may be open."""
    for number in range(2 + CONNECTIONS):  # Of each, two have all that a user may have, the others one.
        await files.ask(f"slow{number}", 40, 1)
        await files.ask(f"other{number}", 40, 101)
    assert files.open.total() == 8 * CONNECTIONS


async def test_a_model_alone_has_more_than_keep_all_connections_busy(files: Files) -> None:
    await files.ask("a", 40, 1)
    assert files.open == {"a": OF_MODEL}
    files.end("a")
    await settle()
    assert files.open == {"a": OF_MODEL}


async def test_a_first_file_of_a_user_who_has_none_is_opened_at_once(files: Files) -> None:
    await fill_the_node(files)
    for uid in range(2, 60):
        await files.ask(f"theirs{uid}", 40, uid)
        assert files.open[f"theirs{uid}"] == 1


async def test_beyond_what_one_user_may_have_each_further_model_has_one(files: Files) -> None:
    for model in "abcde":
        await files.ask(model, 40, 1)
    assert files.open == {"a": 8, "b": 4, "c": 1, "d": 1, "e": 1}
    await files.ask("theirs", 40, 2)
    assert files.open["theirs"] == OF_MODEL


async def test_the_first_files_of_one_users_models_are_bounded_as_well(files: Files) -> None:
    for number in range(20 * CONNECTIONS):
        await files.ask(f"m{number}", 1, 1)
    assert files.open.total() == 4 * CONNECTIONS


async def test_beyond_what_the_node_may_have_a_further_model_of_who_has_some_waits(files: Files) -> None:
    await fill_the_node(files)
    await files.ask("first", 1, 2)
    await files.ask("second", 1, 2)
    assert (files.open["first"], files.open["second"]) == (1, 0)


async def test_a_turn_given_back_goes_to_who_has_least(files: Files) -> None:
    await fill_the_node(files)
    await files.ask("theirs", 2, 2)
    await files.ask("also theirs", 1, 2)
    files.end("slow0")  # What the node had beyond the most.
    await settle()
    assert (files.open["theirs"], files.open["also theirs"]) == (1, 0)
    files.end("slow1")
    await settle()
    assert (files.open["theirs"], files.open["also theirs"]) == (1, 1), "of two of a user, to the one with none"
    files.end("slow2")
    await settle()
    assert files.open["theirs"] == 2


async def test_of_those_that_have_as_little_who_came_first_is_first(files: Files) -> None:
    await fill_the_node(files)
    for model in ("first", "second"):
        await files.ask(model, 1, 1)
    files.end("slow0")
    await settle()
    assert (files.open["first"], files.open["second"]) == (1, 0)


async def test_who_joins_a_model_need_not_wait_for_who_began_it(files: Files) -> None:
    await fill_the_node(files)
    users = {1}
    with files.shared.wanted("late", users):
        await files.ask("late", 1, 1)
        assert files.open["late"] == 0
        users.add(2)
        files.shared.give()
        await settle()
        assert files.open["late"] == 1
    await files.ask("own", 1, 2)
    assert files.open["own"] == 0, "it counts for the one who joined"


async def test_another_users_fetch_of_a_model_that_waits_brings_it_its_turn(files: Files) -> None:
    await fill_the_node(files)
    await files.ask("late", 1, 1)
    await files.ask("late", 0, 2)
    assert files.open["late"] == 1


async def test_a_fetch_that_ends_takes_its_own_users_along_and_no_others(files: Files) -> None:
    mine, theirs = {1}, {1}
    with files.shared.wanted("m", theirs):
        with files.shared.wanted("m", mine):
            pass
        theirs.add(2)
        await fill_the_node(files)
        await files.ask("m", 1, 1)
        assert files.open["m"] == 1


async def test_who_gives_up_leaves_nothing_taken(files: Files) -> None:
    await files.ask("a", 40, 1)
    files.give_up("a")
    await settle()
    assert +files.open == {}
    await files.ask("b", 40, 1)
    assert +files.open == {"b": OF_MODEL}


async def test_a_turn_that_comes_as_it_is_given_up_goes_to_the_next(files: Files) -> None:
    await files.ask("a", OF_MODEL + 1, 1)
    files.end("a")
    await asyncio.sleep(0)  # The last one's turn has been given, and it has not heard of it.
    files.give_up_last()
    await settle()
    await files.ask("a", 2, 1)
    assert files.open["a"] == OF_MODEL


async def test_who_gave_up_just_now_is_passed_over(files: Files) -> None:
    await files.ask("a", OF_MODEL + 1, 1)
    await files.ask("a", 1, 1)
    files.give_up("a")  # None of them has heard of it when the first turn comes back.
    await files.ask("a", 1, 1)
    assert files.open["a"] == 1


async def test_a_model_that_waits_no_more_stands_in_nobodys_way(files: Files) -> None:
    await fill_the_node(files)
    for model in ("late", "next"):
        await files.ask(model, 1, 1)
    files.give_up("late")
    await settle()
    files.end("slow0")
    await settle()
    assert (files.open["late"], files.open["next"]) == (0, 1)


async def test_nothing_is_remembered_of_who_has_gone(files: Files) -> None:
    await files.ask("a", 12, 1)
    files.give_up("a")
    await settle()
    files.close()
    shared = files.shared
    assert (shared._open, shared._by_user, shared._by_model, shared._waiting) == (0, {}, {}, {})
    assert shared._users._of == {}
