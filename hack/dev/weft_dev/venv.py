"""Makes the clone's virtual environment from the lock file, once, however many verbs ask for it at the same time.

Standard library only: it runs before there is an environment.
"""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
INPUTS = ("requirements-dev.lock", "pyproject.toml")


def is_current(marker: Path) -> bool:
    """Whether the environment was completed after the last change of what it is made from."""
    return marker.exists() and all((ROOT / name).stat().st_mtime <= marker.stat().st_mtime for name in INPUTS)


def main(folder: str) -> int:
    environment = ROOT / folder
    marker = environment / ".complete"
    with (ROOT / INPUTS[0]).open() as lock:
        # Another verb may be making it: wait for that one instead of writing into the same folder.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_current(marker):
            return 0
        print(f"making {folder} from requirements-dev.lock, usually within a minute", flush=True)
        # Packages come from wherever the user's pip is set to fetch them; what they are is pinned by hash. The
        # build backend is one of them, so the editable install fetches nothing more.
        pip = (
            environment / "bin" / "python",
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        )
        for command in (
            (sys.executable, "-m", "venv", environment),
            (*pip, "--require-hashes", "-r", ROOT / "requirements-dev.lock"),
            (*pip, "--no-deps", "--no-build-isolation", "-e", ROOT),
        ):
            if status := subprocess.run(command, cwd=ROOT).returncode:
                return status
        marker.touch()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
