"""A griffe extension: the docstrings' reStructuredText marks, as Markdown for the API reference."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

_ROLE = re.compile(r":(?:class|func|meth|mod|attr|exc):`~?([^`]+)`")
_CODE_FOLLOWS = re.compile(r"(?m)^([ \t]*)::$|::$")


class DocstringRoles(Extension):
    """``:class:`X``` becomes code, and ``::`` before a block of code goes: Markdown needs the indentation only."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Called by griffe for each object that it has read."""
        if obj.docstring is not None:
            text = _ROLE.sub(r"`\1`", obj.docstring.value)
            obj.docstring.value = _CODE_FOLLOWS.sub(lambda match: "" if match[1] is not None else ":", text)
