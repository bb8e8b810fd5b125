"""Progress bars."""

from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def progress_bar(items: Iterable[Any] | None = None, *, shown: bool = True, **options: Any) -> tqdm:
    """A bar of tqdm on stderr, or one that shows nothing if stderr is not a terminal.

    items    to iterate over; None: the caller updates the bar
    shown    False: show nothing on a terminal either
    options  of tqdm
    """
    return tqdm(items, disable=None if shown else True, dynamic_ncols=True, **options)
