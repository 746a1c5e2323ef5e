"""Values as text that JSON's readers and YAML's read alike."""

import json
import re
from typing import Any, Final

_NOT_RAW_IN_YAML: Final = re.compile(
    "[^\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)


def yaml_safe_json(value: Any) -> str:
    """JSON that is YAML, too. Plain JSON is not: YAML has no surrogate pairs, and takes fewer characters unescaped."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return _NOT_RAW_IN_YAML.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
