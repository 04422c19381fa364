"""Write the table of the node's parameters in docs/interfaces.md from the parameters themselves.

python -m depth_ros.tools.document_parameters [docs/interfaces.md]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from depth_ros.ros.declaration import DEFAULTS, FIELDS
from depth_ros.types import InputError

BEGIN, END = "<!-- made by depth_ros.tools.document_parameters -->", "<!-- end of what is made -->"


def table() -> str:
    """A row per parameter: name, type, default, range, when it can change, description."""
    rows = ["| parameter | type | default | range | changes | what |", "|---|---|---|---|---|---|"]
    for name, item in FIELDS.items():
        low, high = item.metadata["low"], item.metadata["high"]
        span = "" if low is None else f"{low:g} to {high:g}"
        when = "at start" if item.metadata["fixed"] else "any time"
        cells = (f"`{name}`", _kind(DEFAULTS[name]), f"`{_text(DEFAULTS[name])}`", span, when, item.metadata["description"])
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def with_table(page: str) -> str:
    """Return the text of a page with its table made anew. Raises InputError where the marks around it are missing."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise InputError(f"the page lacks the marks around the table; expected '{BEGIN}' and '{END}'")
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


def _kind(default: Any) -> str:
    names = {bool: "bool", int: "integer", float: "double", str: "string", list: "string array"}
    return names[type(default)]


def _text(default: Any) -> str:
    return str(default).lower() if isinstance(default, bool) else '""' if default == "" else str(default).replace("'", '"')


def main() -> None:
    """Command line."""
    page = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/interfaces.md")
    page.write_text(with_table(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
