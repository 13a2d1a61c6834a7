"""Long answers are written item by item, and are what they would be in one go."""

from __future__ import annotations

import json

from cached.daemon.http.answers import written
from cached.wire import reply


def test_what_is_written_item_by_item_is_what_is_written_in_one_go() -> None:
    body = {"a": [], "b": [{"c": "ü\n"}, None, 3.5], "d": "x", "e": {"f": [1, 2]}, "g": None, "h": [[1], "y"]}
    assert written(body) == reply(body)
    assert json.loads(written({})) == json.loads(reply({}))
