"""`inuse`: images that run somewhere. Retention keeps their tags, garbage collection what they lead to."""

from typing import Annotated

from pydantic import AfterValidator

from registry_server.config.scalars import Text
from registry_server.reference import Image


def _checked(text: str) -> str:
    Image.parse(text)
    return text


ImageText = Annotated[Text, AfterValidator(_checked)]
"""`team/app:v1` or `team/app@sha256:…`."""
