"""What the pages for operators have operators run."""

from __future__ import annotations

import re


def shell_blocks(page: str) -> list[str]:
    """Return the shell scripts of a page, also of those within a list."""
    blocks = re.findall(r"^( *)```sh\n(.*?)^ *```", page, re.DOTALL | re.MULTILINE)
    return [re.sub(f"^{indent}", "", block, flags=re.MULTILINE) for indent, block in blocks]
