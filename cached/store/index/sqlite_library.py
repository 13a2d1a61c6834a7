"""sqlite-utils, which keeps the list of migrations, imported without what it would bring along."""

from __future__ import annotations

import sys

# sqlite-utils imports these where it finds them, for features that we do not use: 100 MB more for the daemon.
_barred = {name: sys.modules.get(name) for name in ("numpy", "pandas")}
sys.modules.update(dict.fromkeys(_barred))  # type: ignore[arg-type]
from sqlite_utils import Database, Migrations  # noqa: E402

for _name, _module in _barred.items():
    del sys.modules[_name]
    if _module is not None:
        sys.modules[_name] = _module

__all__ = ["Database", "Migrations"]
