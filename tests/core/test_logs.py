"""How is a trouble said, and by whom?"""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

CONFIGURED = {
    "nobody": "",
    "the app": "logging.basicConfig(format='root: %(message)s')",
    "the app, of ours": "handler = logging.StreamHandler()\nLOGGER.addHandler(handler)",
    "the app, silent": "LOGGER.addHandler(logging.NullHandler())",
}


def said(configuring: str) -> str:
    """Log in a process of its own: pytest configures this one."""
    script = f"import logging\nfrom mlguard.logs import LOGGER\n{configuring}\n"
    script += "LOGGER.info('quiet')\nLOGGER.warning('spans are %s', 'lost')"
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stderr


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("nobody", r"WARNING mlguard\[\d+\] spans are lost\n"),
        ("the app", r"root: spans are lost\n"),
        ("the app, of ours", r"spans are lost\n"),
        ("the app, silent", ""),
    ],
)
def test_where_logging_is_configured(by: str, expected: str) -> None:
    """Where nobody configures logging, a line has level and name; else the app's way is the way."""
    assert re.fullmatch(expected, said(CONFIGURED[by]))
