# SPDX-License-Identifier: Apache-2.0
"""The site: every page is found from the first one, and the reference shows what people import, without raw markup."""

import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest
from typer.main import get_command

import hf_sidenet
from hf_sidenet.cli.app import app


ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
ROOMS = {room.parent.name for room in (ROOT / "hf_sidenet").glob("*/__init__.py")}


def test_the_first_page_links_to_every_page():
    linked = set(re.findall(r"\]\(([\w/.-]+\.md)\)", (DOCS / "index.md").read_text()))
    assert linked == PAGES - {"index.md"}


def test_the_navigation_has_every_page():
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2].partition("\nexclude_docs:")[0]
    pages = re.findall(r"[\w/.-]+\.md$", navigation, flags=re.MULTILINE)
    assert sorted(pages) == sorted(PAGES)


def test_every_room_has_a_page_of_its_own():
    pages = {page.stem: page.read_text() for page in (DOCS / "reference").glob("*.md")}
    assert pages.keys() == ROOMS
    for room, text in pages.items():
        entries = re.findall(r"^::: hf_sidenet\.(\w+)", text, flags=re.MULTILINE)
        assert set(entries) == {room}


def test_the_layout_names_every_room():
    named = re.findall(r"^\| `(\w+)/` \|", (DOCS / "layout.md").read_text(), flags=re.MULTILINE)
    assert set(named) >= ROOMS


def test_the_page_of_the_command_line_has_every_command():
    text = (DOCS / "reference/cli.md").read_text()
    named = re.findall(r"^\| (\w+) \|", text, flags=re.MULTILINE)[1:]
    assert named == list(get_command(app).commands)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.medium
def test_the_reference_shows_what_people_import(site):
    entries = set()
    for page in site.glob("reference/*/index.html"):
        entries.update(re.findall(r' id="(hf_sidenet[\w.]*)"', page.read_text()))
    names = {entry.rpartition(".")[2] for entry in entries}
    assert set(hf_sidenet.__all__) <= names


@pytest.mark.medium
def test_no_markup_of_docstrings_is_left(site):
    pages = sorted(site.glob("reference/*/index.html"))
    assert len(pages) == len(ROOMS)
    for page in pages:
        article = re.search(r"<article.*?</article>", page.read_text(), flags=re.DOTALL)[0]
        shown = re.sub(r"<pre.*?</pre>", "", article, flags=re.DOTALL)
        shown = unescape(re.sub(r"<(?!code)[^>]+>", "", shown))
        assert not re.findall(r".*(?:\*optional\*|, defaults to|\[<code>\w|\[~|`|</?autoref).*", shown), page


@pytest.mark.medium
def test_names_are_linked_across_pages(site):
    attaching = (site / "reference/attaching/index.html").read_text()
    assert re.search(r'href="\.\./calibration/#hf_sidenet\.calibration[\w.]*\.Target"', attaching)
