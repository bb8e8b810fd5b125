"""HTML pages from jinja2 templates, with every text escaped."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Template


def load_template(path: Path) -> "Template":
    """The template in a file. Rendering it without one of its variables is an error."""
    import jinja2  # slow to import, and needed only to write a page

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(path.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(path.name)
