"""The journal of events: order, bounds, and what is left of it by those who are killed or run out of space."""

import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from registry_server.notifications import Journal, SpoolError, prepare_spool
from registry_server.notifications.journal import SEGMENT

LARGE = 64 << 20


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path, max_size=LARGE)


def read_all(journal: Journal) -> list[bytes]:
    found: list[bytes] = []
    number = 0
    while (batch := journal.read(number)).lines:
        assert batch.first == number, "none is missing"
        found += batch.lines
        number = batch.first + len(batch.lines)
    assert number == batch.end
    return found


def lines(*numbers: int) -> Sequence[bytes]:
    return [b"event %d" % number for number in numbers]


def test_events_come_back_in_their_order_over_many_segments(tmp_path: Path) -> None:
    journal = Journal(tmp_path, max_size=LARGE)
    events = [b"%d " % number + b"x" * 5000 for number in range(1000)]
    for start in range(0, 1000, 20):
        journal.append(events[start : start + 20])
    assert len(list(tmp_path.glob("*.events"))) >= 1000 * 5000 // (SEGMENT + 20 * 5000)
    assert read_all(Journal(tmp_path, max_size=LARGE)) == events


def test_processes_that_append_at_the_same_time_lose_and_repeat_nothing(tmp_path: Path, journal: Journal) -> None:
    program = """
import sys
from pathlib import Path
from registry_server.notifications import Journal
journal = Journal(Path(sys.argv[1]), max_size=1 << 30)
for number in range(50):
    journal.append([f"{sys.argv[2]} {number} ".encode() + b"x" * 12000])
"""
    writers = [subprocess.Popen([sys.executable, "-c", program, tmp_path, name]) for name in "abc"]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    found = [event.split()[:2] for event in read_all(journal)]
    for name in (b"a", b"b", b"c"):
        assert [int(number) for writer, number in found if writer == name] == list(range(50))


def test_what_a_killed_writer_left_half_written_is_no_event(tmp_path: Path, journal: Journal) -> None:
    journal.append(lines(0, 1))
    (segment,) = tmp_path.glob("*.events")
    with segment.open("ab") as file:
        file.write(b"event 2, which was nev")
    assert read_all(Journal(tmp_path, max_size=LARGE)) == lines(0, 1)
    journal.append(lines(3))
    assert read_all(journal) == lines(0, 1, 3)
    assert journal.end() == 3


def test_what_does_not_fit_on_the_disk_is_taken_back(journal: Journal) -> None:
    journal.append(lines(0))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            journal.append([b"x" * 200])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    journal.append(lines(1))
    assert read_all(journal) == lines(0, 1)


def test_beyond_its_size_the_oldest_segments_go(tmp_path: Path) -> None:
    journal = Journal(tmp_path, max_size=1 << 20)
    for start in range(0, 3000, 50):
        journal.append([b"%d " % number + b"x" * 1000 for number in range(start, start + 50)])
        assert sum(path.stat().st_size for path in tmp_path.glob("*.events")) <= (1 << 20) + 50 * 1006
    oldest = journal.read(0)
    assert oldest.first > 1900
    assert oldest.lines[0].startswith(b"%d " % oldest.first)
    assert oldest.end == 3000


class TestPositions:
    def test_stay(self, tmp_path: Path, journal: Journal) -> None:
        position = journal.position("a")
        journal.append(lines(*range(10)))
        position.advance(7)
        position.close()
        again = Journal(tmp_path, max_size=LARGE).position("a")
        assert again.number == 7
        again.close()

    def test_that_were_never_written_whole_are_as_if_new(self, tmp_path: Path, journal: Journal) -> None:
        journal.append(lines(*range(10)))
        journal.position("a").close()
        (file,) = tmp_path.glob("*.next")
        file.write_bytes(b"")
        position = journal.position("a")
        assert position.number == 10
        position.close()

    def test_keep_what_the_slowest_needs(self, tmp_path: Path) -> None:
        journal = Journal(tmp_path, max_size=LARGE)
        slow = journal.position("slow")
        for start in range(0, 600, 50):
            journal.append([b"%d " % number + b"x" * 5000 for number in range(start, start + 50)])
        journal.trim(journal.slowest(600))
        assert journal.read(0).first == 0
        slow.advance(600)
        journal.trim(journal.slowest(600))
        assert journal.read(0).first > 0
        slow.close()

    def test_of_endpoints_that_are_gone_are_forgotten(self, tmp_path: Path) -> None:
        prepare_spool(tmp_path, max_size=LARGE, endpoints=["a", "b"])
        assert len(list(tmp_path.glob("*.next"))) == 2
        prepare_spool(tmp_path, max_size=LARGE, endpoints=["b"])
        assert len(list(tmp_path.glob("*.next"))) == 1

    def test_a_directory_that_is_none_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(SpoolError, match=f"{tmp_path}/file: .*; the server's user must be able to write there"):
            prepare_spool(tmp_path / "file", max_size=LARGE, endpoints=["a"])


def test_only_one_process_delivers(tmp_path: Path, journal: Journal) -> None:
    with journal.couriers_lock() as first, Journal(tmp_path, max_size=LARGE).couriers_lock() as second:
        assert (first, second) == (True, False)
    with journal.couriers_lock() as again:
        assert again
