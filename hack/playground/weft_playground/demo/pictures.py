"""`make pictures`: docs/images from what the last `make demo ARGS=--ui` left in build/.

Exit status: 0 made; 1 something is missing, said on stderr.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from weft.cli.look.markup import element
from weft.cli.look.page import PLACES
from weft_dev import ROOT
from weft_playground.demo.story import PAGE, POSTER

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTH = 1360
"""Of the window, in pixels."""
GROUPS_END = element("h2", PLACES["waits"], id="waits")
"""Where the picture of the groups alone ends."""
MEASURE = "<script>document.title = document.documentElement.scrollHeight</script>"
TIMEOUT_SECONDS = 60


def main() -> int:
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        print(f"no browser to draw with: install one of {', '.join(BROWSERS)}", file=sys.stderr)
        return 1
    for file in (PAGE, POSTER):
        if not file.exists():
            print(f"{file} is not there: make demo ARGS=--ui", file=sys.stderr)
            return 1
    images = ROOT / "docs" / "images"
    shutil.copy(POSTER, images / "demo.svg")
    # It would ask for itself again where nobody answers, and its policy lets nothing else run.
    page = re.sub("<script.*</script>|<meta http-equiv=.*?>", "", PAGE.read_text(), flags=re.DOTALL)
    groups, end, _ = page.partition(GROUPS_END)
    if not end:
        print(f"{PAGE} is of another version: make demo ARGS=--ui", file=sys.stderr)
        return 1
    draw(browser, page, images / "ui.png")
    draw(browser, groups, images / "demo-ui.png")
    print("docs/images: demo.svg, demo-ui.png, ui.png")
    return 0


def draw(browser: str, page: str, image: Path) -> None:
    """The whole page as a PNG. Raises CalledProcessError."""
    with tempfile.TemporaryDirectory(prefix="weft-browser-") as name:
        directory = Path(name)
        file = directory / "page.html"
        file.write_text(page + MEASURE, encoding="utf-8")

        def run(*flags: str) -> str:
            common = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")
            command = [browser, *common, f"--user-data-dir={directory / 'profile'}", *flags, file.as_uri()]
            done = subprocess.run(
                command, check=True, capture_output=True, text=True, timeout=TIMEOUT_SECONDS
            )
            return done.stdout

        found = re.search("<title>([0-9]+)</title>", run(f"--window-size={WIDTH},100", "--dump-dom"))
        assert found is not None
        run(f"--window-size={WIDTH},{found[1]}", f"--screenshot={image}")


if __name__ == "__main__":
    sys.exit(main())
