"""The common part of all reports: one HTML file with its styles, scripts, data and plots inside.

What the data says is untrusted. Jinja2 escapes it in the page, JSON carries it to the scripts, and
the page's content security policy runs the scripts that were written here and no others, and
lets nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

_MARK = b'<meta name="generator" content="scorekit">'


def render(
    template: str,
    *,
    title: str,
    data: object,
    scripts: Sequence[str] = (),
    plots: bool = True,
    **context: object,
) -> str:
    """Fill a template that extends ``base.html``.

    Parameters
    ----------
    template : str
        A file of ``scorekit/reporting/templates``.
    title : str
        Of the window.
    data : object
        What the scripts draw, as a JSON value; they find it as ``scorekit.data``.
    scripts : sequence of str
        Files of the same folder, run in this order after plotly and ``page.js``.
    plots : bool
        Whether the page draws any; without, plotly's 5 MB stay out of it.
    **context
        For the template.

    Returns
    -------
    str
        The page. No request leaves it.

    Raises
    ------
    ValueError
        If the data holds a NaN or an infinity, which JSON has not.

    Examples
    --------
    >>> page = render("base.html", title="<b>", data=["</script>"])
    >>> "<title>&lt;b&gt;</title>" in page, '["\\\\u003c/script\\\\u003e"]' in page
    (True, True)
    """
    environment = _environment()
    files = [_source(name) for name in ("page.js", *scripts)]
    code = [_plotly(), *files] if plots else files
    return environment.get_template(template).render(
        title=title,
        data=data,
        policy=_policy(code),
        style=Markup(_source("page.css")),
        scripts=[Markup(text) for text in code],
        **context,
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("scorekit.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {
        "allow_nan": False,
        "ensure_ascii": False,
        "separators": (",", ":"),
    }
    return environment


def _source(name: str) -> str:
    environment = _environment()
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    text: str = get_plotlyjs()
    return text


def _policy(scripts: Sequence[str]) -> str:
    """The content security policy: these scripts by their hashes, images that the page holds.

    Styles have no hash, because plotly writes its own; with nothing to be fetched, a style can
    do no more than look wrong.
    """
    hashes = " ".join(f"'sha256-{_digest(text)}'" for text in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def is_page(path: Path) -> bool:
    """Whether a file is a page that `render` made: a regular file with scorekit's mark."""
    if path.is_symlink() or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return _MARK in file.read(500)
    except OSError:
        return False


def rounded(value: Any) -> float | None:
    """A number for a plot: five digits are more than its pixels; null where there is none.

    Examples
    --------
    >>> rounded(0.123456789), rounded(float("nan")), rounded(None)
    (0.12346, None, None)
    """
    import math

    return None if value is None or not math.isfinite(value) else float(f"{value:.5g}")
