"""The tools the tests run against: real clients, a real kube-apiserver, a real Docker engine.

`python -m tests.toolchain ensure` obtains them ahead of a test run, `tool(NAME)` on first use. Only the standard
library is needed, so that it works before anything is installed. The tools and their versions are in `catalog.py`, the
ways to obtain one in `sources.py`, their order in `obtain.py`.
"""

from tests.toolchain.catalog import TOOLS, Tool
from tests.toolchain.obtain import Found, Unavailable, find, tool

__all__ = ["TOOLS", "Found", "Tool", "Unavailable", "find", "tool"]
