"""What is made of mutmut's answers."""

from __future__ import annotations

import json
from pathlib import Path

from weft_dev import mutation
from weft_dev.mutation import ROOT, Change

CHANGED = '''
def x_late__mutmut_orig(waiting, limit):
    """Seconds beyond the limit."""
    over = waiting - limit
    return max(0.0, over)

def x_late__mutmut_1(waiting, limit):
    """Seconds beyond the limit."""
    over = waiting + limit
    return max(0.0, over)

def x_late__mutmut_2(waiting, limit):
    """Seconds beyond the limit."""
    over = waiting - limit
    return max(1.0, over)
'''


def test_each_change_is_told_by_its_line_with_what_became_of_it(tmp_path: Path) -> None:
    file = tmp_path / "outlook.py"
    file.write_text(CHANGED)
    statuses = {
        f"weft.balancing.outlook.x_late__mutmut_{number}": status for number, status in ((1, 1), (2, 0))
    }
    Path(f"{file}.meta").write_text(json.dumps({"exit_code_by_key": statuses}))
    found = mutation.read(file)
    assert found == [
        Change("outlook", "late", 1, "over = waiting - limit", "over = waiting + limit"),
        Change("outlook", "late", 0, "return max(0.0, over)", "return max(1.0, over)"),
    ]
    assert "| outlook | 2 | 1 | 1 | 0 |" in mutation.table(found)
    assert mutation.survivors(found) == (
        "`outlook.late`\n\n- `return max(0.0, over)` → `return max(1.0, over)`\n"
    )


def test_of_a_long_line_what_differs_is_shown() -> None:
    before, after = (f"{'x' * 60} = {value} + {'y' * 60}" for value in ("1", "2"))
    assert mutation.shortened(before, after) == (
        f"…{'x' * 37} = 1 + {'y' * 37}…",
        f"…{'x' * 37} = 2 + {'y' * 37}…",
    )


def test_a_change_that_was_not_tried_is_not_counted_as_noticed() -> None:
    assert "| plan | 1 | 0 | 0 | 1 |" in mutation.table([Change("plan", "f", None, "a", "b")])


def test_the_modules_and_tests_that_it_names_exist() -> None:
    modules = [f"operator/src/weft/balancing/{name}.py" for name in mutation.PLANNER]
    missing = [name for name in (*modules, *mutation.TESTS, *mutation.COPIED) if not (ROOT / name).exists()]
    assert not missing
    assert mutation.PLACEHOLDER in (ROOT / "pyproject.toml").read_text()
