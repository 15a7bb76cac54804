"""Heat maps of misaligned words: kept by a run, once for all, at the cost of no score."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from scorekit import heat_maps
from scorekit.backbones import relevance
from scorekit.backbones.handle import get_handle
from scorekit.cli import app
from scorekit.explain import explain
from scorekit.heat_maps import HEAT, add_heat_maps, check_heat_maps, chosen_words, compact
from scorekit.run import RunOptions, score_samples
from scorekit.samples import samples_from
from scorekit.table import EVIDENCE, ScoreTable
from scorekit.types import InputError, Sample, UsageError

DEMO = Path(__file__).parents[1] / "data" / "demo"
IMAGE = str(DEMO / "faithful" / "scene-0001.png")  # of a triangle, a circle, three triangles
OTHER = str(DEMO / "faithful" / "scene-0002.png")
TEXT = "a black star left of a circle, with three small yellow triangles"
LOWEST = "clip4dm:mode=most_negative@scenes-clip"
ALL = "clip4dm:eps=1@scenes-clip"  # every word is below it


pytestmark = pytest.mark.usefixtures("one_thread")


def words_of(table: ScoreTable, metric: str = "clip4dm") -> list[list[dict[str, Any]]]:
    rows = table.frame[table.frame["metric"] == metric]
    return [json.loads(text) if text else [] for text in rows[EVIDENCE]]


def mapped(words: list[dict[str, Any]]) -> list[str]:
    return [word["word"] for word in words if HEAT in word]


def scored(
    samples: list[Sample], metrics: Any, options: RunOptions, **more: Any
) -> tuple[ScoreTable, ScoreTable]:
    """A table without heat maps, and with them."""
    table = score_samples(samples, metrics, options=options)
    return table, add_heat_maps(table, samples, metrics, options=options, **more)


def test_the_map_is_that_of_explain(options: RunOptions) -> None:
    plain, table = scored(samples_from([IMAGE], [TEXT]), LOWEST, options)
    ((*words,),) = words_of(table)
    assert mapped(words) == ["star"]
    (heat,) = (word[HEAT] for word in words if HEAT in word)
    found = explain(IMAGE, TEXT, backbone="scenes-clip", word="star", relevance=True).relevance
    assert found is not None
    assert (heat["rows"], heat["columns"]) == found.patches.shape == (6, 6)
    largest = np.abs(found.patches).max()
    assert heat["largest"] == pytest.approx(largest, rel=1e-5)
    expected = found.patches.ravel() / largest * 99
    assert np.abs(np.array(heat["patches"]) - expected).max() <= 0.501
    assert heat["seen"] == [0, 0, 1, 1]
    # Nothing else differs.
    assert table.signatures == plain.signatures
    assert table.frame.drop(columns=EVIDENCE).equals(plain.frame.drop(columns=EVIDENCE))
    without = [{k: v for k, v in word.items() if k != HEAT} for word in words]
    assert [without] == words_of(plain)


def test_the_three_lowest_of_the_misaligned_words(options: RunOptions) -> None:
    _, table = scored(samples_from([IMAGE], [TEXT]), [ALL, "f_clipscore@scenes-clip"], options)
    for metric in ("clip4dm", "f_clipscore"):
        ((*words,),) = words_of(table, metric)
        assert sorted(word["rank"] for word in words if HEAT in word) == [1, 2, 3]
        maps = [word[HEAT]["patches"] for word in words if HEAT in word]
        assert maps[0] != maps[1] != maps[2] != maps[0]
    # The second metric's words are the first's.
    assert table.run["heat_maps"] == {"computed": 3, "cached": 0, "failed": 0}


def test_the_lowest_word_where_none_is_misaligned() -> None:
    words = [{"rank": rank, "misaligned": False} for rank in (3, 1, 2)]
    assert chosen_words(words) == [1] and chosen_words([]) == []
    flagged = [{"rank": rank, "misaligned": True} for rank in (5, 2, 4, 1, 3)]
    assert chosen_words(flagged) == [3, 1, 4]


def test_a_second_run_computes_nothing(
    options: RunOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = samples_from([IMAGE, OTHER], [TEXT, "a red square"])
    _, first = scored(samples, ALL, options)
    assert first.run["heat_maps"] == {"computed": 6, "cached": 0, "failed": 0}
    monkeypatch.setattr(relevance, "patch_relevances", None)
    done: list[tuple[int, int]] = []
    _, second = scored(samples, ALL, options, progress=lambda *each: done.append(each))
    assert second.run["heat_maps"] == {"computed": 0, "cached": 6, "failed": 0}
    assert words_of(second) == words_of(first) and done == [(1, 2), (2, 2)]


def test_a_file_that_changes_meanwhile_gives_no_map_to_the_old_one(
    options: RunOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "a.png"
    image.write_bytes(Path(IMAGE).read_bytes())
    samples = samples_from([str(image)], [TEXT])
    table = score_samples(samples, LOWEST, options=options)
    content_key = heat_maps.content_key

    def key_and_change(given: Any) -> str:
        key = content_key(given)
        image.write_bytes(Path(OTHER).read_bytes())
        return key

    monkeypatch.setattr(heat_maps, "content_key", key_and_change)
    found = add_heat_maps(table, samples, LOWEST, options=options)
    monkeypatch.undo()
    _, expected = scored(samples_from([IMAGE], [TEXT]), LOWEST, RunOptions(cache=False))
    assert words_of(found) == words_of(expected)


def test_a_run_from_the_cache_loads_no_torch(tmp_path: Path) -> None:
    arguments = ["score", IMAGE, "--text", TEXT, "-m", LOWEST, "--heat-maps", "-q"]
    arguments += ["--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "t.csv")]
    code = (
        "import sys; from scorekit.cli import app\n"
        f"app({arguments!r}, standalone_mode=False)\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert CliRunner().invoke(app, arguments).exit_code == 0
    first = (tmp_path / "t.csv").read_bytes()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "t.csv").read_bytes() == first and b'""heat""' in first


def test_every_map_is_of_its_own_text_and_recipe(options: RunOptions) -> None:
    samples = samples_from([IMAGE, IMAGE], ["a star", "a cross"])
    metrics = [ALL.replace("1@", f"1,last={last}@") for last in (2, 3)]
    metrics.append(ALL.replace("1@", "1,last=3,prefix=@"))
    _, table = scored(samples, metrics, options)
    names = [name for name, info in table.metrics.items() if info.headline]
    # The word at the same place of two texts, by three recipes.
    maps = [words[0][HEAT]["patches"] for name in names for words in words_of(table, name)]
    assert len(maps) == 6 and all(maps.count(each) == 1 for each in maps)


def test_of_a_wide_image_the_middle_is_seen(options: RunOptions) -> None:
    square = Image.open(IMAGE).convert("RGB")
    wide = Image.new("RGB", (2 * square.width, square.height), "white")
    wide.paste(square, (square.width // 2, 0))
    _, table = scored(samples_from([wide, square], [TEXT] * 2), LOWEST, options)
    one, two = (next(w[HEAT] for w in words if HEAT in w) for words in words_of(table))
    assert one["seen"] == [0.25, 0, 0.75, 1] and two["seen"] == [0, 0, 1, 1]
    # The resize looks a little beyond the crop's edges.
    assert np.abs(np.subtract(one["patches"], two["patches"])).max() <= 5


def test_a_phrase_is_one_word(options: RunOptions) -> None:
    sample = Sample("one", "x", TEXT, IMAGE, meta={"phrases": "yellow triangles"})
    _, table = scored([sample], ALL, options)
    ((*words,),) = words_of(table)
    assert "yellow triangles" in mapped(words)


def test_maps_are_held_as_lists_one_sample_at_a_time(
    options: RunOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Map(dict[str, Any]):
        """What a weak reference can be made to."""

    made: list[weakref.ref[Map]] = []
    genuine = heat_maps.compact

    def compact(*given: Any) -> Map:
        made.append(weakref.ref(each := Map(genuine(*given))))
        return each

    monkeypatch.setattr(heat_maps, "compact", compact)
    samples = samples_from([IMAGE] * 4, ["a star", "a cross", "a red square", "a blue circle"])
    alive: list[int] = []
    _, table = scored(
        samples,
        ALL,
        options,
        progress=lambda *_: alive.append(sum(each() is not None for each in made)),
    )
    assert [len(mapped(words)) for words in words_of(table)] == [2, 2, 3, 3]
    assert alive == [2, 2, 3, 3]


# What goes wrong ----------------------------------------------------------------------------


def test_an_image_that_cannot_be_read_costs_its_row(options: RunOptions, tmp_path: Path) -> None:
    broken, gone = tmp_path / "broken.png", tmp_path / "gone.png"
    broken.write_bytes(b"no image")
    gone.write_bytes(Path(OTHER).read_bytes())
    samples = samples_from([str(broken), str(gone), IMAGE], [TEXT] * 3)
    table = score_samples(samples, LOWEST, options=options)
    gone.unlink()  # after it was scored
    found = add_heat_maps(table, samples, LOWEST, options=options)
    rows = found.frame[found.frame["metric"] == "clip4dm"]
    assert list(rows["status"]) == ["unreadable_image", "ok", "ok"]
    assert rows["note"].iloc[1].startswith("no heat map: missing_image: ")
    assert rows["note"].iloc[2] == ""
    assert [mapped(words) for words in words_of(found)] == [[], [], ["star"]]
    assert found.run["heat_maps"]["failed"] == 1
    assert found.frame["value"].equals(table.frame["value"])


def test_a_model_that_fails_on_one_image_costs_its_row(
    options: RunOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = samples_from([IMAGE, OTHER], [TEXT] * 2)
    table = score_samples(samples, LOWEST, options=options)
    genuine, calls = relevance.relevances_of, []

    def first_fails(*given: Any, **more: Any) -> Any:
        calls.append(given)
        if len(calls) == 1:
            raise RuntimeError("out of luck")
        return genuine(*given, **more)

    monkeypatch.setattr(relevance, "relevances_of", first_fails)
    found = add_heat_maps(table, samples, LOWEST, options=options)
    rows = found.frame[found.frame["metric"] == "clip4dm"]
    assert list(rows["note"]) == ["no heat map: failed: RuntimeError: out of luck", ""]
    assert [len(mapped(words)) for words in words_of(found)] == [0, 1]


def test_what_is_not_finite_is_no_map() -> None:
    with pytest.raises(InputError, match="not finite"):
        compact(np.array([[0.5, np.nan]]), (0, 0, 1, 1))
    assert compact(np.zeros((1, 2)), (0, 0, 1, 1))["patches"] == [0, 0]


def test_a_table_of_other_samples_is_refused(options: RunOptions) -> None:
    samples = samples_from([IMAGE, OTHER], [TEXT] * 2)
    table = score_samples(samples, LOWEST, options=options)
    with pytest.raises(UsageError, match="2 rows of clip4dm, not 1"):
        add_heat_maps(table, samples[:1], LOWEST, options=options)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("clipscore@scenes-clip", "score by clip4dm or f_clipscore as well"),
        ("clip4dm@scenes-vqa", "no heat maps by scenes-vqa: .*no token attribution"),
        ("clip4dm:last=9@scenes-clip", "no heat maps by scenes-clip: .*layers, not 9"),
    ],
)
def test_wrong_use_is_one_line_before_the_run(
    metric: str, message: str, options: RunOptions, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        check_heat_maps(metric, options=options)
    assert "\n" not in str(caught.value)
    # Said before even the missing folder is.
    result = CliRunner().invoke(app, ["score", str(tmp_path / "gone"), "-m", metric, "--heat-maps"])
    assert isinstance(result.exception, UsageError)
    assert str(result.exception) == str(caught.value)


def test_a_processor_that_hides_its_crop_is_refused(
    options: RunOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = get_handle("scenes-clip", options).model()
    monkeypatch.setattr(type(model), "resizer", "processor")
    with pytest.raises(UsageError, match=r"no heat maps by scenes-clip: .*does not tell what it"):
        check_heat_maps(LOWEST, options=options)


# Where the maps of a run end early ----------------------------------------------------------

KEPT = "the table without heat maps is in {out}"
GO_ON = "; what was computed is in the cache, and the same command goes on from there"


def interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def terminate(*_: Any, **__: Any) -> None:
    signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize(
    ("stop", "code", "word"), [(interrupt, 130, "interrupted"), (terminate, 143, "terminated")]
)
@pytest.mark.parametrize("cached", [True, False])
def test_an_interrupt_costs_the_maps_alone(
    stop: Any,
    code: int,
    word: str,
    cached: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "t.csv"
    arguments = ["score", IMAGE, "--text", TEXT, "-m", LOWEST, "--heat-maps", "-q"]
    arguments += ["--cache", str(tmp_path / "cache")] if cached else ["--no-cache"]
    with monkeypatch.context() as patch:
        patch.setattr(relevance, "relevances_of", stop)
        result = CliRunner().invoke(app, [*arguments, "--out", str(out)])
        nowhere = CliRunner().invoke(app, [*arguments, "--report", str(tmp_path / "page.html")])
    assert result.exit_code == nowhere.exit_code == code
    message = f"{word}: {KEPT.format(out=out)}{GO_ON if cached else ''}"
    assert result.stderr.strip() == message
    kept = GO_ON.removeprefix("; ") if cached else "nothing was kept (--no-cache)"
    assert nowhere.stderr.strip() == f"{word}: {kept}"
    table = ScoreTable.load(out)
    assert set(table.frame["status"]) == {"ok"} and "heat_maps" not in table.run
    assert [mapped(words) for words in words_of(table)] == [[]]
    assert CliRunner().invoke(app, [*arguments, "--out", str(out)]).exit_code == 0
    whole = ScoreTable.load(out)
    assert [mapped(words) for words in words_of(whole)] == [["star"]]
    assert whole.run["heat_maps"] == {"computed": 1, "cached": 0, "failed": 0}
    assert whole.frame["value"].equals(table.frame["value"])


def test_an_error_costs_the_maps_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise UsageError("this model has no such thing")

    monkeypatch.setattr(relevance, "relevances_of", fail)
    out = tmp_path / "t.parquet"
    arguments = ["score", IMAGE, "--text", TEXT, "-m", LOWEST, "--heat-maps", "-q", "--no-cache"]
    result = CliRunner().invoke(app, [*arguments, "--out", str(out)])
    assert isinstance(result.exception, UsageError)
    assert result.stderr.strip() == f"note: {KEPT.format(out=out)}"
    assert set(ScoreTable.load(out).frame["status"]) == {"ok"}
    page = str(tmp_path / "page.html")
    assert CliRunner().invoke(app, [*arguments, "--report", page]).stderr == ""
    result = CliRunner().invoke(app, arguments)
    assert "--heat-maps are for --out or --report" in str(result.exception)


def test_an_interrupt_of_the_report_says_that_the_table_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scorekit.report_cli.write", interrupt)
    out = tmp_path / "t.csv"
    arguments = ["score", IMAGE, "--text", TEXT, "-m", LOWEST, "-q", "--no-cache"]
    arguments += ["--out", str(out), "--report", str(tmp_path / "page.html")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 130
    assert result.stderr.strip() == f"interrupted: the table is in {out}, and complete"
