"""The log files of local mode."""

import itertools
from pathlib import Path

from registry_operator.cluster.local.log import KEPT, RotatingLog, follow_lines, last_line, read_lines


def test_a_log_is_bounded(tmp_path: Path) -> None:
    """The newest lines are kept, in order, in a bounded number of bounded files."""
    path = tmp_path / "x.log"
    log = RotatingLog(path, limit=100)
    for number in range(1000):
        log.write(f"line {number}\n".encode())
    log.close()
    files = sorted(tmp_path.iterdir())
    assert len(files) == 1 + KEPT
    assert all(file.stat().st_size <= 100 for file in files)
    lines = list(read_lines(path))
    assert lines == [f"line {number}" for number in range(1000 - len(lines), 1000)]
    assert list(read_lines(path, tail=2)) == ["line 998", "line 999"]
    assert last_line(path) == "line 999"


def test_it_goes_on_after_a_restart(tmp_path: Path) -> None:
    """What was said before is still there."""
    for word in (b"one\n", b"two\n"):
        log = RotatingLog(tmp_path / "x.log")
        log.write(word)
        log.close()
    assert list(read_lines(tmp_path / "x.log")) == ["one", "two"]


def test_following_goes_through_rotations(tmp_path: Path) -> None:
    """No line is lost or comes twice, and half a line waits for its other half."""
    path = tmp_path / "x.log"
    log = RotatingLog(path, limit=30)
    log.write(b"line 0\nline ")
    following = follow_lines(path)
    seen = [next(following)]
    log.write(b"1\n")
    for number in range(2, 10):
        seen.append(next(following))
        log.write(f"line {number}\n".encode())
    seen.append(next(following))
    log.close()
    following.close()
    assert seen == [f"line {number}" for number in range(10)]
    assert list(itertools.islice(follow_lines(path, tail=1), 1)) == ["line 9"]


def test_no_log_yet(tmp_path: Path) -> None:
    """Is no error."""
    assert list(read_lines(tmp_path / "x.log")) == []
    assert last_line(tmp_path / "x.log") == ""
