"""One self-contained page for the browser: head, policy, scripts, and how all of it is written.

The page is built as a tree of elements, so whatever text comes from a file is escaped where it is
written. The plotting library (Vega-Lite) is packed into it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from importlib.resources import files
from importlib.util import find_spec
from typing import Any
from xml.etree.ElementTree import Element, tostring

from tinyface.errors import MissingExtraError
from tinyface.files import atomic_write

# Nothing may be fetched; Vega compiles its expressions, which is what 'unsafe-eval' allows.
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline' 'unsafe-eval'"
)


def check_extra() -> None:
    """Refuse a report before any work is done for it.

    Raises:
        MissingExtraError: the package that carries the plotting library is not installed.
    """
    if find_spec("vl_convert") is None:
        raise MissingExtraError("vl-convert-python>=1.3", "report", "an HTML report")


def libraries() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, about 0.9 MB.

    Raises:
        MissingExtraError: the package that carries them is not installed.
    """
    check_extra()
    from vl_convert import javascript_bundle

    return str(javascript_bundle("window.vegaEmbed = vegaEmbed;"))


def save(path: str, text: str) -> None:
    """A page as a file, which appears whole or not at all.

    Raises:
        UsageError: ``path`` may not be written.
    """
    # a name out of a JSON file may hold half a surrogate pair, which no encoding has
    with atomic_write(path, "w", encoding="utf-8", errors="xmlcharrefreplace") as file:
        file.write(text)


def document(
    title: str,
    *,
    skip: tuple[str, str],
    header: Element,
    sections: Iterable[Element],
    data: dict[str, Any],
    scripts: Sequence[str],
) -> str:
    """The whole page.

    Args:
        skip: text and target of the link that leads keyboards past the charts.
        data: what the charts are drawn from; the element ``data`` holds it as JSON.
        scripts: run at the end, in this order; the first from :func:`libraries`.
    """
    text, target = skip
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", {"http-equiv": "Content-Security-Policy", "content": POLICY}),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", asset("report.css")),
    )
    body = element(
        "body",
        element("a", text, {"class": "skip", "href": target}),
        header,
        element("main", *sections),
        element("script", _script_json(data), id="data", type="application/json"),
        *(element("script", _script_text(script)) for script in scripts),
    )
    html = element("html", head, body, lang="en")
    return f"<!DOCTYPE html>\n{tostring(html, encoding='unicode', method='html')}\n"


def element(tag: str, *content: str | Element | dict[str, str], **attributes: str) -> Element:
    """An element with text, elements and, as a dict or by keyword, attributes in it."""
    made = Element(tag, attributes)
    last: Element | None = None
    for part in content:
        if isinstance(part, dict):
            made.attrib.update(part)
        elif isinstance(part, str):
            if last is None:
                made.text = (made.text or "") + part
            else:
                last.tail = (last.tail or "") + part
        else:
            made.append(part)
            last = part
    return made


def table(caption: str, head: Element, rows: Sequence[Element], **attributes: str) -> Element:
    """A table that scrolls within its frame, by keyboard, too."""
    made = element(
        "table", element("caption", caption), element("thead", head), element("tbody", *rows),
        attributes,
    )  # fmt: skip
    scroll = {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": caption}
    return element("div", made, scroll)


def head(*titles: str) -> Element:
    """The row of column heads."""
    return element("tr", *(element("th", title, scope="col") for title in titles))


def line(title: str, *cells: str) -> Element:
    """A row of a table."""
    return element("tr", element("th", title, scope="row"), *(element("td", c) for c in cells))


def section(name: str, title: str, *content: Element) -> Element:
    """A part of the page under a heading; ``name`` is its anchor."""
    heading = element("h2", title, id=f"{name}-title")
    return element("section", heading, *content, {"id": name, "aria-labelledby": f"{name}-title"})


def figure(name: str, caption: str) -> Element:
    """A place that a script draws a chart into."""
    return element(
        "figure",
        element("div", {"id": name, "class": "chart"}),
        element("noscript", "This chart needs JavaScript; the tables do not."),
        element("figcaption", caption),
    )


def asset(name: str) -> str:
    """A style or script of the package."""
    return (files("tinyface.traffic.assets") / name).read_text(encoding="utf-8")


def _script_json(document: dict[str, Any]) -> str:
    """JSON that cannot end its script element, whatever names it holds."""
    return json.dumps(document, separators=(",", ":")).replace("<", "\\u003c")


def _script_text(code: str) -> str:
    """JavaScript that cannot, either. In its strings ``\\/`` is ``/``."""
    return code.replace("</script", "<\\/script").replace("<!--", "<\\!--")
