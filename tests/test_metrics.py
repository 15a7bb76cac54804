"""What holds for every registered metric: a new one is covered by its golden file alone."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scorekit.registry import METRICS, load_metric
from scorekit.types import Extracted, Scores, UsageError

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden"
CARDS = ROOT / "metrics"


def golden(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / f"{name}.json").read_text())


CASES = [
    pytest.param(name, case, id=f"{name}: {case['name']}")
    for name in METRICS
    for case in golden(name)["cases"]
]
every_metric = pytest.mark.parametrize("name", METRICS)
every_case = pytest.mark.parametrize(("name", "case"), CASES)
every_default_case = pytest.mark.parametrize(
    ("name", "case"), [c for c in CASES if not c.values[1].get("params")]
)
every_case_scored_by_row = pytest.mark.parametrize(
    ("name", "case"), [c for c in CASES if load_metric(c.values[0]).scope == "row"]
)


def build(name: str, case: dict[str, Any]) -> Any:
    return load_metric(name)(**case.get("params", {}))


def features_of(metric: Any, case: dict[str, Any], rows: list[int] | None = None) -> dict[str, Any]:
    """A case's features as a run gives them, of all rows or of some."""
    features = {}
    for name, feature in metric.needs.items():
        given = case["features"][name]
        if feature.kind == "constant":
            features[name] = float(given)
            continue
        given = given if rows is None else [given[row] for row in rows]
        if feature.kind == "value" or feature.field == "sample":
            features[name] = given
        elif feature.kind == "token_attribution":
            features[name] = [
                Extracted(np.asarray(g["array"], dtype=np.float32), g["info"]) for g in given
            ]
        elif feature.several and feature.ragged:
            features[name] = [[np.asarray(a, dtype=np.float32) for a in row] for row in given]
        elif feature.ragged or feature.several:
            features[name] = [None if g is None else np.asarray(g, np.float32) for g in given]
        else:
            features[name] = np.asarray(given, dtype=np.float32)
    return features


def scores_of(metric: Any, features: dict[str, Any]) -> Scores:
    result = metric.score(features)
    return result if isinstance(result, Scores) else Scores(result)


def n_rows(case: dict[str, Any]) -> int:
    return len(case["expected"]["value"])


def assert_same_rows(got: Scores, whole: Scores, rows: list[int]) -> None:
    """`got` scores the given rows of `whole`, in that order."""
    np.testing.assert_allclose(got.value, np.asarray(whole.value)[rows], atol=1e-6)
    assert got.components.keys() == whole.components.keys()
    for part, values in got.components.items():
        np.testing.assert_allclose(
            values, np.asarray(whole.components[part])[rows], atol=1e-6, err_msg=part
        )
    for kept in ("undefined", "notes"):
        mine, all_of_them = getattr(got, kept), getattr(whole, kept)
        expected = {i: all_of_them[row] for i, row in enumerate(rows) if row in all_of_them}
        assert mine == expected


@every_case
def test_golden_value(name: str, case: dict[str, Any]) -> None:
    metric = build(name, case)
    scores = scores_of(metric, features_of(metric, case))
    undefined = case["expected"].get("undefined", [])
    assert sorted(scores.undefined) == undefined
    assert len(scores.value) == n_rows(case)
    for row, expected in enumerate(case["expected"]["value"]):
        if row not in undefined:
            assert float(scores.value[row]) == pytest.approx(expected, abs=case["atol"])


@every_case
def test_golden_components(name: str, case: dict[str, Any]) -> None:
    metric = build(name, case)
    components = scores_of(metric, features_of(metric, case)).components
    for part, expected in case["expected"].get("components", {}).items():
        np.testing.assert_allclose(
            components[part], expected, rtol=0, atol=case["atol"], err_msg=part
        )


@every_case
def test_no_nan_is_a_message(name: str, case: dict[str, Any]) -> None:
    metric = build(name, case)
    scores = scores_of(metric, features_of(metric, case))
    for values in (scores.value, *scores.components.values()):
        assert np.isfinite(np.asarray(values)).all()


@every_default_case
def test_range_holds_for_the_default_parameters(name: str, case: dict[str, Any]) -> None:
    metric = build(name, case)
    values = np.asarray(scores_of(metric, features_of(metric, case)).value)
    low, high = metric.range
    assert (values >= low - case["atol"]).all()
    assert (values <= high + case["atol"]).all()


@every_case_scored_by_row
def test_batch_size_does_not_matter(name: str, case: dict[str, Any]) -> None:
    metric = build(name, case)
    whole = scores_of(metric, features_of(metric, case))
    for row in range(n_rows(case)):
        alone = scores_of(metric, features_of(metric, case, [row]))
        assert_same_rows(alone, whole, [row])


@every_case
def test_row_order_does_not_matter(name: str, case: dict[str, Any]) -> None:
    metric = build(name, case)
    whole = scores_of(metric, features_of(metric, case))
    rows = list(range(n_rows(case)))
    for order in (rows[::-1], rows[1:] + rows[:1]):
        permuted = scores_of(metric, features_of(metric, case, order))
        assert_same_rows(permuted, whole, order)
        assert permuted.facts == whole.facts


@every_case
def test_torch_gives_the_same_with_a_finite_gradient(name: str, case: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    metric = build(name, case)
    arrays = features_of(metric, case)
    leaves = []

    def tensor(array: Any) -> Any:
        leaves.append(torch.from_numpy(array).requires_grad_())
        return leaves[-1]

    features = {
        key: tensor(value)
        if isinstance(value, np.ndarray)
        else [None if v is None else tensor(v) for v in value]
        if isinstance(value, list) and isinstance(value[0], np.ndarray)
        else value
        for key, value in arrays.items()
    }
    got, expected = scores_of(metric, features), scores_of(metric, arrays)

    def plain(values: Any) -> Any:
        return values.detach().numpy() if torch.is_tensor(values) else values

    detached = Scores(
        plain(got.value),
        components={part: plain(v) for part, v in got.components.items()},
        undefined=got.undefined,
        notes=got.notes,
    )
    assert_same_rows(detached, expected, list(range(n_rows(case))))

    if not metric.differentiable or expected.undefined:
        return
    got.value.sum().backward()
    assert any(leaf.grad is not None for leaf in leaves)
    for leaf in leaves:
        assert leaf.grad is None or torch.isfinite(leaf.grad).all()


@every_metric
def test_golden_file_has_two_cases_with_sources(name: str) -> None:
    content = golden(name)
    assert content["metric"] == name
    assert len(content["cases"]) >= 2
    for case in [*content["cases"], *content.get("hub", [])]:
        assert case["source"]
        assert case["atol"] > 0


@every_metric
def test_class_agrees_with_the_registry(name: str) -> None:
    metric = load_metric(name)()
    assert metric.name == name
    assert metric.version >= 1
    assert metric.scope in ("row", "set")
    assert dataclasses.is_dataclass(metric)
    assert hash(metric) == hash(load_metric(name)())


@every_case
def test_from_strings_round_trip(name: str, case: dict[str, Any]) -> None:
    metric = build(name, case)
    written = {key: str(value) for key, value in metric.params().items()}
    assert load_metric(name).from_strings(written) == metric


@every_metric
def test_unknown_parameter_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError, match="no parameter 'colour'"):
        load_metric(name).from_strings({"colour": "red"})


@every_metric
def test_backbone_reaches_every_feature(name: str) -> None:
    cls = load_metric(name)
    if not cls.has_backbone():
        pytest.skip("no backbone")
    before = {feature.backbone for feature in cls().needs.values()}
    needs = cls().with_backbone("hf:some/other").needs.values()
    # What only reads a file (questions) is no model, and stays.
    kept = {
        backbone
        for backbone in before
        if str(backbone).startswith(("questions:", "entities:", "pixels:"))
    }
    assert {feature.backbone for feature in needs} <= {"hf:some/other", None, *kept}
    assert "hf:some/other" in {feature.backbone for feature in needs}


@every_metric
def test_card_has_every_heading_and_names_every_parameter(name: str) -> None:
    card = (CARDS / f"{name}.md").read_text()
    metric = load_metric(name)()
    assert card.startswith(f"# {name}: {metric.title}\n")
    rows = ["formula", "source", "family", "needs", "range"]
    rows += ["default backbone"] if metric.has_backbone() else []
    for row in rows:
        assert re.search(rf"^\| {row} \|", card, re.MULTILINE), f"no row {row!r}"
    for heading in ("Beside other implementations", "What it does not see", "Citation"):
        assert f"\n## {heading}\n" in card
    assert "```bibtex\n@" in card
    if metric.params():
        assert "\n## Parameters\n" in card
    for parameter in metric.params():
        assert re.search(rf"^\| `{parameter}` \|", card, re.MULTILINE), parameter


@every_metric
def test_card_agrees_with_the_code(name: str) -> None:
    card = (CARDS / f"{name}.md").read_text()
    metric = load_metric(name)()
    if metric.has_backbone():
        assert f"| default backbone | `{metric.backbone}`" in card
    better = "higher" if metric.higher_is_better else "lower"
    assert f"{better} is better" in card
    for parameter, default in metric.params().items():
        row = re.search(rf"^\| `{parameter}` \| (.*?) \|", card, re.MULTILINE)
        assert row is not None
        shown = row[1].strip("`")
        if isinstance(default, str):
            assert shown == (default or "empty")
        elif isinstance(default, bool):
            assert shown == str(default).lower()
        else:
            assert float(shown) == default
    for part, kind in metric.aggregates.items():
        assert f"`{part}`" in card
        assert kind in card


def module_files() -> list[Path]:
    return sorted(p for p in CARDS.glob("*.py") if p.name != "__init__.py")


def test_every_card_and_formula_is_registered() -> None:
    named = {entry.partition(":")[0].rpartition(".")[2] for entry in METRICS.values()}
    assert named == {p.stem for p in module_files() if not p.stem.startswith("_")}
    assert set(METRICS) == {p.stem for p in CARDS.glob("*.md")}
    assert set(METRICS) <= {p.stem for p in GOLDEN.glob("*.json")}


def test_metrics_do_not_import_torch() -> None:
    imports = "; ".join(f"import scorekit.metrics.{p.stem}" for p in module_files())
    code = f"import sys; {imports}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("path", module_files(), ids=lambda p: p.stem)
def test_metrics_do_no_input_or_output(path: Path) -> None:
    forbidden = {
        "http", "io", "os", "pathlib", "requests", "shutil", "socket", "subprocess", "tempfile",
        "torch", "urllib",
    }  # fmt: skip
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            names = []
        assert not {n.partition(".")[0] for n in names} & forbidden
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("open", "print", "input", "exec", "eval")
