"""Text is escaped wherever it stands, figures survive as JSON, nothing points outside."""

import json
import re
from pathlib import Path

import pytest

from semid.errors import InputError
from semid.pages import page
from semid.pages.page import Entry, Lists, Plot, Section, Table, rendered, write_page

EVIL = "</script><script>alert('1')</script><img src=x onerror=alert(2)>&amp;"
PLOTLY = re.compile(r"<script>/\*\*.*?</script>", re.DOTALL)


def without_bundle(text: str) -> str:
    """The page but for plotly's own script, which names places that it does not visit."""
    start = text.index("</main>")
    return text[:start] + text[text.rindex("<script>\nconst dark") :]


def test_everything_is_escaped() -> None:
    sections = [
        Section(
            title=EVIL,
            intro=EVIL,
            blocks=[
                Table(title=EVIL, rows=[("", EVIL), (EVIL, EVIL)], note=EVIL, folded=True),
                Plot(title=EVIL, data=[{"name": EVIL}], layout={EVIL: EVIL}, note=EVIL),
                Lists(title=EVIL, columns={EVIL: [Entry(text=EVIL, below=EVIL, marked=True)]}),
            ],
        )
    ]
    text = without_bundle(rendered(EVIL, [(EVIL, EVIL)], sections))
    assert "alert(" in text
    assert "<script>alert" not in text
    assert "<img" not in text
    [figure] = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text)
    assert json.loads(figure) == {"data": [{"name": EVIL}], "layout": {EVIL: EVIL}}


def test_the_script_is_there_once_and_nothing_is_fetched() -> None:
    text = rendered("a", [], [Section(title="b", blocks=[Plot(title="c", data=[{"y": [1, None]}])])])
    assert len(re.findall(r"plotly\.js v\d", text)) == 1
    assert not re.findall(r"(?:src|href)=\"(?!#)", without_bundle(text))
    assert "default-src 'none'" in text


def test_what_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"page.txt is no name of a page: let it end in \.html"):
        write_page(tmp_path / "page.txt", "a", [], [])

    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(page, "import_module", missing)
    with pytest.raises(InputError, match=r"not installed: run pip install 'semid\[report\]'"):
        write_page(tmp_path / "page.html", "a", [], [])
    assert list(tmp_path.iterdir()) == []
