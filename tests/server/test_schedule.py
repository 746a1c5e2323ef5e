"""When jobs are due that a server does by itself."""

import json
from datetime import UTC, datetime, timedelta
from math import inf
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from registry_server.config import Backup, Recurring
from registry_server.jobs.recurring import Job
from registry_server.jobs.runs import Run
from tests.server.conftest import Serve
from tests.server.content import Repository
from tests.server.live import until
from tests.server.test_backup import destination


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


@pytest.mark.parametrize(
    ("settings", "last", "due"),
    [
        ({"interval": "24h"}, "2026-03-01T02:10+00:00", "2026-03-02T02:10+00:00"),
        ({"schedule": "15 2 * * *"}, "2026-03-01T02:10+00:00", "2026-03-01T02:15+00:00"),
        ({"schedule": "15 2 * * *"}, "2026-03-01T02:40+00:00", "2026-03-02T02:15+00:00"),
        ({"schedule": "0 4 * * 0"}, "2026-03-02T12:00+00:00", "2026-03-08T04:00+00:00"),
        ({"schedule": "15 2 * * *", "timezone": "Asia/Tokyo"}, "2026-03-01T12:00+00:00", "2026-03-01T17:15+00:00"),
        # Berlin's night of 2026-03-29 has no 02:15; as with Debian's cron nothing is left out for it.
        ({"schedule": "15 2 * * *", "timezone": "Europe/Berlin"}, "2026-03-28T12:00+00:00", "2026-03-29T01:00+00:00"),
        ({"schedule": "15 2 * * *", "timezone": "Europe/Berlin"}, "2026-07-01T12:00+00:00", "2026-07-02T00:15+00:00"),
    ],
)
def test_the_next_time(settings: dict[str, str], last: str, due: str) -> None:
    assert Recurring.model_validate(settings).after(at(last)) == at(due)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"schedule": "daily"}, "as in crontab: 15 2 * * *"),
        ({"schedule": "61 2 * * *"}, "Bad minute"),
        ({"schedule": "0 15 2 * * *"}, "must be minute, hour"),
        ({"schedule": "0 0 31 2 *"}, "Bad day-of-month"),
        ({"schedule": "15 2 * * *", "timezone": "Mars"}, "Mars is no time zone"),
        ({"schedule": "15 2 * * *", "timezone": "../../etc/passwd"}, "is no time zone"),
        ({"schedule": "15 2 * * *", "interval": "24h"}, "remove one of them"),
    ],
)
def test_a_time_that_can_not_be_is_refused(settings: dict[str, str], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Recurring.model_validate(settings)


class TestJob:
    def job(self, *, immediate: bool = False, **settings: Any) -> Job:
        return Job("a job", Recurring.model_validate(settings), False, [], immediate)

    def test_what_was_missed_is_made_up_for(self) -> None:
        job = self.job(schedule="15 2 * * *")
        last, now = at("2026-03-01T02:40+00:00"), at("2026-03-04T11:00+00:00")
        assert job.wait((last.timestamp(), Run()), now.timestamp()) <= 0

    def test_the_first_time_is_at_once_where_that_was_asked_for(self) -> None:
        now = at("2026-03-01T12:00+00:00").timestamp()
        assert self.job(schedule="15 2 * * *").wait((now, None), now) == 14.25 * 3600
        assert self.job(schedule="15 2 * * *", immediate=True).wait((now, None), now) == 0
        assert self.job(schedule="15 2 * * *", immediate=True).wait((now, Run()), now) == 14.25 * 3600

    def test_without_a_time_never(self) -> None:
        assert self.job().wait((0.0, None), 1e9) == inf
        assert not Recurring().recurs

    def test_it_is_tried_again_soon_but_not_at_once(self) -> None:
        assert self.job(schedule="15 2 * * *").patience == timedelta(minutes=1).total_seconds()
        assert self.job(interval="10s").patience == timedelta(milliseconds=100).total_seconds()
        assert self.job(interval="24h").patience == timedelta(minutes=1).total_seconds()


def test_a_backup_has_all_of_these() -> None:
    settings = {"destination": {"filesystem": {}}, "schedule": "15 2 * * *", "timezone": "Europe/Berlin"}
    assert Backup.model_validate(settings).recurs


def test_a_server_follows_what_its_configuration_says_by_now(serve: Serve, archive: Path) -> None:
    registry = serve({})
    Repository(registry.client(), "app").push_image("v1")
    changed = json.loads(registry.config.read_text()) | destination(archive)
    changed["backup"] |= {"schedule": "15 2 * * *", "immediate": True, "verify": True}
    registry.config.write_text(json.dumps(changed))
    until(lambda: "changes of backup are in force" in registry.messages(), "it is read")
    until(lambda: "0 runs, 0 contents" in registry.messages(), "it is made, verified and pruned")
    assert "3 contents" in registry.messages()
    assert "are whole, 0 are not" in registry.messages()
