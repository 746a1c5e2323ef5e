"""When a server does something by itself: at an interval, or at times of day."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, Field, model_validator

from registry_server.config.scalars import Duration, Text
from registry_server.config.section import Section

_FIELDS: Final = 5


def check_schedule(text: str) -> str:
    """Raises ValueError for what is no schedule in the form of crontab(5), or one that never comes."""
    example = "must be minute, hour, day of month, month and day of week, as in crontab: 15 2 * * *"
    if len(text.split()) != _FIELDS:
        raise ValueError(example)
    try:
        next(CronSim(text, datetime.now(UTC)))
    except CronSimError as error:
        raise ValueError(f"{example}; {error}") from error
    except StopIteration:
        raise ValueError(f"{text} never comes") from None
    return text


def check_time_zone(name: str) -> str:
    """Raises ValueError for what is no time zone."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"{name} is no time zone; give its name, such as Europe/Berlin or UTC") from None
    return name


class Recurring(Section):
    """Something that recurs: an `interval` after the last time, or by a `schedule` in a `timezone`. Without, never."""

    interval: Annotated[Duration, Field(ge=timedelta(0))] = timedelta(0)
    schedule: Annotated[Text, AfterValidator(check_schedule)] | None = None
    timezone: Annotated[Text, AfterValidator(check_time_zone)] = "UTC"

    @model_validator(mode="after")
    def _interval_or_schedule(self) -> Self:
        if self.interval and self.schedule:
            raise ValueError("has both interval and schedule; remove one of them")
        return self

    @property
    def recurs(self) -> bool:
        return bool(self.interval or self.schedule)

    @property
    def period(self) -> timedelta | None:
        """How long it is from one time to the next, as from now on; None where it does not recur."""
        now = datetime.now(UTC)
        following = self.after(now)
        return None if following is None else (self.after(following) or following) - following

    def after(self, last: datetime) -> datetime | None:
        """When it is due that was done last then; a time that was missed is made up for. None for never."""
        if self.schedule:
            return next(CronSim(self.schedule, last.astimezone(ZoneInfo(self.timezone)))).astimezone(UTC)
        return last + self.interval if self.interval else None
