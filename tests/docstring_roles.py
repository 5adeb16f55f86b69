"""A griffe extension that converts the reStructuredText marks of docstrings to Markdown for the API reference."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

_ROLE = re.compile(r":(?:class|func|meth|mod|attr|exc):`~?([^`]+)`")
_CODE_FOLLOWS = re.compile(r"(?m)^([ \t]*)::$|::$")


class DocstringRoles(Extension):
    """Turn ``:class:`X``` into code, and remove ``::`` before a block of code: Markdown needs only the indentation."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Convert the docstring of an object. Griffe calls this for each object that it has read."""
        if obj.docstring is not None:
            text = _ROLE.sub(r"`\1`", obj.docstring.value)
            obj.docstring.value = _CODE_FOLLOWS.sub(lambda match: "" if match[1] is not None else ":", text)
