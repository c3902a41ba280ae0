"""The page: complete, closed in itself, and unmoved by hostile text."""

import base64
import hashlib
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from rich.console import Console

from outcrop.config import ReportConfig
from outcrop.report.console import console_summary
from outcrop.report.page import latent_pages, render_page
from outcrop.report.plots import figure_files
from outcrop.report.summary import summarise
from outcrop.report.tables import Tables, read_tables
from outcrop.results import Results
from outcrop.schema import STATUSES
from outcrop.types import StratumShare

from .conftest import TOPICS, Run, copied

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Outline(HTMLParser):
    """Elements, attributes and the text of a page; asserts that every element is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


@pytest.fixture(scope="module")
def page(run: Run, tables: Tables, summary: dict) -> str:
    return render_page(summary, tables, latent_pages(run.results, run.examples, run.vocabulary))


@pytest.fixture(scope="module")
def outline(page: str) -> Outline:
    parser = Outline()
    parser.feed(page)
    assert parser.open == []
    return parser


def test_nothing_can_run_and_nothing_is_fetched(outline: Outline, page: str) -> None:
    assert not {"script", "iframe", "object", "embed", "img", "form", "base"} & set(outline.tags)
    for _tag, name, value in outline.attributes:
        assert not name.startswith("on")
        assert name != "style"
        if name in ("href", "src"):
            assert value.startswith("#") or value == "data:,"
    assert "url(" not in page
    assert "@import" not in page


def test_the_policy_allows_the_style_sheet_by_its_hash_and_nothing_else(page: str) -> None:
    style = re.search(r"<style>(.*?)</style>", page, re.S).group(1)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:" in page


def test_the_ledger_stands_first_and_adds_up_in_the_text(outline: Outline, summary: dict) -> None:
    headings = [value for tag, name, value in outline.attributes if tag == "section" and name == "id"]
    assert headings == ["ledger", "reconstruction", "scores", "rates", "latents"]
    legend = outline.text[outline.text.index("Every latent has exactly one status") :]
    shown = {status: int(re.search(rf"{status} (\d+)", legend).group(1)) for status in STATUSES}
    assert shown == summary["ledger"]["counts"]
    assert sum(shown.values()) == int(re.search(r"together (\d+)", legend).group(1)) == 42


def test_every_explained_latent_has_a_card_and_a_link_to_it(outline: Outline) -> None:
    cards = [value for tag, name, value in outline.attributes if tag == "article" and name == "id"]
    links = {value for tag, name, value in outline.attributes if tag == "a" and name == "href"}
    ids = [value for _, name, value in outline.attributes if name == "id"]
    assert len(cards) == len(TOPICS)
    assert {f"#{card}" for card in cards} <= links
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in links} <= set(ids)


def test_hostile_text_is_shown_and_not_obeyed(outline: Outline, page: str) -> None:
    assert '<script>alert("1")</script> <b>bold</b>' in outline.text
    assert "<img src=x onerror=alert(1)>" in outline.text
    assert not set("\u202e\u202c") & set(page)
    assert "⟨U+202E⟩evil⟨U+202C⟩" in outline.text
    assert re.search(r"é{40,48}⟨99,9\d\d more characters⟩", outline.text)
    assert "x" * 1_000 not in page


def test_a_failed_explanation_shows_its_reason(outline: Outline) -> None:
    assert "No explanation" in outline.text
    assert "timeout: no answer in 60 s" in outline.text


def test_mistakes_come_first_and_explainer_windows_are_kept_apart(run: Run) -> None:
    pages = latent_pages(run.results, run.examples, run.vocabulary)
    doubtful = next(p for p in pages if p.latent.index == 22)
    order = {"wrong": 0, "failed": 1, "right": 2}
    for group in doubtful.scored:
        outcomes = [order[w.outcome] for w in group.windows]
        assert outcomes == sorted(outcomes)
        assert group.n_wrong == outcomes.count(0)
    assert [group.name for group in doubtful.scored] == ["5", "4", "3", "2", "1", "same_token", "random"]
    assert {w.outcome for group in doubtful.explain for w in group.windows} == {"unjudged"}
    assert sum(len(group.windows) for group in doubtful.explain) == 13


def test_mistakes_of_the_cards_are_the_mistakes_in_the_database(run: Run) -> None:
    query = """
    SELECT COUNT(*) AS n FROM judgements j JOIN examples e USING (coder, latent, example)
    WHERE latent = 30 AND scorer = 'detection' AND arm = 'plain' AND predicted != (quantile IS NOT NULL)
    """
    page = next(p for p in latent_pages(run.results, run.examples, run.vocabulary) if p.latent.index == 30)
    assert sum(group.n_wrong for group in page.scored) == int(run.results.columns(query)["n"][0]) > 0


def test_the_text_of_a_window_is_its_tokens_with_the_firing_ones_shaded(run: Run) -> None:
    page = next(p for p in latent_pages(run.results, run.examples, run.vocabulary) if p.latent.index == 3)
    window = page.scored[0].windows[0]
    assert next(piece.text for piece in window.pieces if piece.shade) == " dog"
    strongest = max(p.shade for group in page.scored + page.explain for w in group.windows for p in w.pieces)
    assert strongest == 8
    quiet = next(g for g in page.scored if g.name == "same_token").windows[0]
    assert quiet.trigger == " dog"
    assert [piece.text for piece in quiet.pieces if piece.trigger] == [" dog"]


def test_a_layer_whose_selected_latents_all_failed_keeps_its_line(run: Run) -> None:
    failed = Results()
    run.results._db.backup(failed._db)
    failed._db.execute("DELETE FROM judgements WHERE latent >= 28 AND arm = 'plain' AND scorer = 'detection'")
    tables = read_tables(failed)
    summary = summarise(tables, run.reconstructions, ReportConfig())
    page = render_page(summary, tables, latent_pages(failed, run.examples, run.vocabulary))
    line = re.search(r"<th scope=\"row\">layer 2 <span[^>]*>4 of 4 without a score</span></th>(.*?)</tr>", page, re.S)
    assert set(re.findall(r'<span class="v">(.*?)</span>', line.group(1))) == {"—"}


def test_a_stratum_of_which_nothing_could_be_judged_is_named_with_the_reason(run: Run) -> None:
    share = StratumShare("neighbour", 0.0004, 3, "score: 10 wanted, 0 windows there")
    examples = [replace(latent, strata=(*latent.strata, share)) for latent in run.examples if latent.latent.index == 3]
    tables = read_tables(run.results)
    summary = summarise(tables, run.reconstructions, ReportConfig())
    page = render_page(summary, tables, latent_pages(run.results, examples, run.vocabulary))
    (note,) = re.findall(r"<b>Non-activating, although a neighbouring latent fires</b>: (.*?)</p>", page, re.S)
    assert note.startswith("&lt;0.1% of all non-activating windows") and "10 wanted, 0 windows there" in note


def test_a_run_without_explanations_still_has_a_page() -> None:
    tables = read_tables(Results())
    page = render_page(summarise(tables, [], ReportConfig()), tables, [])
    assert "No latent was scored by detection." in page
    assert "No latent was explained." in page


def test_a_control_that_was_not_asked_takes_no_room(run: Run, summary: dict, page: str, tables: Tables) -> None:
    results = copied(run)
    results._db.execute("DELETE FROM judgements WHERE arm = 'none'")
    without = read_tables(results)
    of_it = summarise(without, run.reconstructions, ReportConfig())
    shown = render_page(of_it, without, latent_pages(results, run.examples, run.vocabulary))
    for there, known, known_tables, asked in ((page, summary, tables, True), (shown, of_it, without, False)):
        (key,) = {*re.findall(r'<p class="key">.*?</p>', there)}
        assert ("no explanation" in key) == asked and "token baseline" in key
        assert ("no explanation</th>" in there) == asked
        assert bool(re.search(r'class="(whisker|value) no_explanation', there)) == asked
        assert ("no explanation" in in_console(known)) == asked
        strata = figure_files(known, known_tables)["strata.svg"].decode()
        assert ("no explanation" in strata) == asked and "token baseline" in strata


def in_console(summary: dict, width: int = 140) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width).print(console_summary(summary))
    return stream.getvalue()


def test_the_console_says_over_how_many_tokens_and_latents(summary: dict) -> None:
    told = " ".join(in_console(summary).split())
    assert "unfired: on none of 200,000 tokens" in told
    assert "dead: not fired for 1,000,000 tokens of training; unfired: on none of 32,768 held-out tokens" in told
    assert "mean over 6 scored latents" in told
    assert re.search(r"token illusion [−\d.]+ \[[^]]*\] n 5", told), "one latent has no same-token windows"
    assert not re.search(r"balanced accuracy [−\d.]+ \[[^]]*\] n", told)


@pytest.mark.parametrize("width", [80, 140])
def test_the_console_breaks_no_interval(summary: dict, width: int) -> None:
    told = in_console(summary, width)
    scores = told[told.index("Scores, mean") : told.index("Perfect latents")]
    assert max(map(len, told.splitlines())) <= width
    assert "[" in scores
    assert all(line.count("[") == line.count("]") for line in scores.splitlines())


def test_the_console_has_explainers_below_their_scorer(summary: dict) -> None:
    told = in_console(summary)
    lines = [line.split() for line in told[told.index("Scorers, mean") :].splitlines()]
    first = next(i for i, line in enumerate(lines) if line[:2] == ["detection", "J"])
    assert lines[first + 1][0] == "contrastive"


def test_the_console_says_from_where_to_where_coders_differ(summary: dict) -> None:
    other = {**summary["reconstruction"][0], "n_tokens": 32_700, "dead_after_tokens": None}
    told = " ".join(in_console({**summary, "reconstruction": [*summary["reconstruction"], other]}).split())
    assert "32,700 to 32,768 held-out tokens" in told


def test_the_console_tells_ledger_reconstruction_and_scores(summary: dict) -> None:
    told = in_console(summary)
    for word in ("Ledger", "Reconstruction", "Scores", "topk at transformer.h.5", "42", "balanced accuracy"):
        assert word in told
