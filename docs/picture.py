"""What does a drift report look like? Writes drift.png: `make demo; python -m docs.picture`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
REPORT = HERE.parent / ".demo" / "drift-fastapi.html"
PICTURE = HERE / "drift.png"
SIZE = "900,635"  # the verdict, and the two features that drifted


def main() -> None:
    """Have a browser take a picture of the report that the demo has written."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None or not REPORT.exists():
        sys.exit("it takes chromium on the PATH, and the report of `make demo`")
    options = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={SIZE}"]
    command = [browser, *options, f"--screenshot={PICTURE}", REPORT.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


if __name__ == "__main__":
    main()
