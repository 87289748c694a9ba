import re
from pathlib import Path

from unireplknet.demo import run_demo


def test_the_demo_shows_all_of_it(tmp_path: Path) -> None:
    lines: list[str] = []
    run = run_demo(lines.append, tmp_path / "demo", epochs=1)
    report = "\n".join(lines)
    error = re.search(r"largest relative difference of the outputs: (\S+)", report)
    assert error
    assert 0 <= float(error[1]) < 1e-5
    for word in ("UniRepLKNet:", "1-nearest-neighbour", "unmerged", "merged", "is-a-"):
        assert word in report
    for file in ("curves.png", "confusion-test.png", "predictions-test.png"):
        assert (run.path / file).stat().st_size > 1000
