"""What a browser would see in a page."""

from __future__ import annotations

from html.parser import HTMLParser

LOADING = {
    "src",
    "href",
    "srcset",
    "action",
    "formaction",
    "poster",
    "data",
    "background",
    "xlink:href",
    "ping",
    "cite",
}
FORBIDDEN = {
    "script",
    "link",
    "iframe",
    "object",
    "embed",
    "base",
    "video",
    "audio",
    "source",
    "form",
    "frame",
    "input",
}


class Page(HTMLParser):
    """Tags, attributes and text of a page.

    Attributes:
        tags: all that are there.
        attributes: (tag, name, value) of all.
        text: between the tags.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    handle_startendtag = handle_starttag

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def loads(self) -> list[tuple[str, str, str]]:
        """Attributes that make a browser fetch something that is not in the page."""
        return [a for a in self.attributes if a[1] in LOADING and not a[2].startswith(("data:image/", "#"))]

    @property
    def runs(self) -> list[tuple[str, str, str]]:
        """Attributes that are programs."""
        return [a for a in self.attributes if a[1].startswith("on") or a[2].strip().lower().startswith("javascript:")]


def assert_harmless(html: str) -> Page:
    """No tag and no attribute of the page runs or loads anything; the page is returned."""
    page = Page(html)
    assert not page.tags & FORBIDDEN
    assert page.loads == []
    assert page.runs == []
    return page
