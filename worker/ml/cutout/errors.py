"""Why a picture's object cannot be cut out. Their messages follow a picture's number or name."""

from __future__ import annotations

from worker.ml.errors import BadInput


class UnusablePicture(BadInput):
    """No object can be cut out of this picture; another one of the same object may do."""


class AllTransparent(UnusablePicture):
    """Every pixel of the picture is transparent."""


class NoForeground(UnusablePicture):
    """Nothing, or next to nothing, stands out from the background."""


class TooNarrow(UnusablePicture):
    """The object is so much longer than wide that too few pixels of it would be left."""


class BackgroundNotRemoved(UnusablePicture):
    """The background is neither transparent nor flat, and there is no network to remove it."""
