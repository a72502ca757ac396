"""Lists that are shown page by page."""

from pager.links import links
from pager.pages import page, page_count

__all__ = ["links", "page", "page_count"]
