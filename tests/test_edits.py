"""Edit metrics in CLIP's space: AugCLIP's plane, shift and centring, and what rows say."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from scorekit.metrics import _hyperplane
from scorekit.metrics._clip_edits import SAME
from scorekit.metrics._hyperplane import fit_plane, shortest_shift
from scorekit.metrics.augclip import CROSSED, FLAT, AugCLIP
from scorekit.metrics.clip_dir import CLIPDir
from scorekit.metrics.directional_clip import SAME_TEXT, DirectionalCLIP
from scorekit.metrics.lambda_harmonic import LambdaHarmonic, weighted_harmonic
from scorekit.run import RunOptions, score_samples
from scorekit.types import Feature, Sample, UsageError

EDITS = (
    "augclip", "directional_clip", "clip_dir", "clip_out", "clip_im", "edit_baseline",
    "lambda_harmonic:against=source",
)  # fmt: skip


def triples(n: int = 12, d: int = 64, k: int = 6, seed: int = 0) -> dict[str, Any]:
    """Features of n triples in which images lie apart from texts, as CLIP's do."""
    rng = np.random.default_rng(seed)
    gap = 2 * rng.standard_normal(d)

    def unit(*shape: int, shift: Any = 0.0) -> Any:
        x = rng.standard_normal((*shape, d)) + shift
        return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)

    return {
        "image": unit(n, shift=gap),
        "source": unit(n, shift=gap),
        "text": unit(n),
        "source_text": unit(n),
        "source_attributes": list(unit(n, k)),
        "target_attributes": list(unit(n, k - 1)),
        "change": [{"locality": 0.5}] * n,
    }


# The plane and the way across it.


@pytest.mark.parametrize("classifier", ["logistic", "svm"])
@pytest.mark.parametrize("margin", [0.0, 0.7])
def test_the_moved_point_lies_on_the_margin(classifier: Any, margin: float) -> None:
    given = triples()
    for i, source in enumerate(given["source"].astype(float)):
        sides = given["source_attributes"][i], given["target_attributes"][i]
        normal, offset = fit_plane(*sides, classifier, 10.0)
        side = normal @ source + offset
        v = shortest_shift(np.array([side]), normal[None], margin)[0]
        moved = normal @ (source + v) + offset
        assert moved == pytest.approx(max(side, margin), abs=1e-10)
        # Least: no part of it runs along the plane.
        np.testing.assert_allclose(v - (v @ normal) / (normal @ normal) * normal, 0, atol=1e-12)


@pytest.mark.parametrize(("k", "d"), [(5, 200), (40, 8)], ids=["n below d", "n above d"])
@pytest.mark.parametrize("C", [0.1, 1.0, 50.0])
def test_the_fit_on_the_span_is_the_fit_on_all_dimensions(k: int, d: int, C: float) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import SVC

    given = triples(n=1, d=d, k=k)
    sides = given["source_attributes"][0], given["target_attributes"][0]
    rows = np.concatenate(sides).astype(float)
    labels = [-1] * len(sides[0]) + [1] * len(sides[1])
    full = {
        "logistic": LogisticRegression(C=C, solver="newton-cholesky", tol=1e-10, max_iter=1000),
        "svm": SVC(kernel="linear", C=C, tol=1e-10),
    }
    for classifier, model in full.items():
        model.fit(rows, labels)
        normal, offset = fit_plane(*sides, classifier, C)  # type: ignore[arg-type]
        np.testing.assert_allclose(normal, model.coef_[0], atol=1e-6, err_msg=classifier)
        assert offset == pytest.approx(model.intercept_[0], abs=1e-6)


def test_logistic_normal_is_where_its_objective_has_no_slope() -> None:
    given = triples(n=1)
    source, target = (given[f"{s}_attributes"][0].astype(float) for s in ("source", "target"))
    normal, offset = fit_plane(source, target, "logistic", 3.0)
    rows, side = np.concatenate([source, target]), np.repeat([-1, 1], [len(source), len(target)])
    pull = side / (1 + np.exp(side * (rows @ normal + offset)))
    np.testing.assert_allclose(normal, 3.0 * pull @ rows, atol=1e-8)
    assert pull.sum() == pytest.approx(0, abs=1e-8)


def test_a_fit_ends_where_no_plane_fits() -> None:
    # Three texts are on both sides, and a C this large forbids what can't be helped.
    from sklearn.exceptions import ConvergenceWarning

    rng = np.random.default_rng(0)
    source, target = rng.standard_normal((7, 4)), rng.standard_normal((6, 4))
    target[:3] = source[:3]
    source /= np.linalg.norm(source, axis=1, keepdims=True)
    target /= np.linalg.norm(target, axis=1, keepdims=True)
    with pytest.warns(ConvergenceWarning):
        normal, offset = fit_plane(source, target, "svm", 1e8)
    assert np.isfinite([*normal, offset]).all()


def test_the_direction_depends_on_c() -> None:
    given = triples(n=1)
    sides = given["source_attributes"][0], given["target_attributes"][0]
    soft, hard = (fit_plane(*sides, "logistic", C).normal for C in (0.01, 1e4))
    means = sides[1].mean(axis=0) - sides[0].mean(axis=0)

    def cos(a: Any, b: Any) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    assert cos(soft, means) > 0.999
    assert cos(hard, means) < 0.99


def test_a_pair_of_attribute_sets_is_fitted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    given = triples(n=6)
    for side in ("source_attributes", "target_attributes"):
        given[side] = given[side][:2] * 3
    calls: list[int] = []
    real = _hyperplane.fit_plane
    monkeypatch.setattr(_hyperplane, "fit_plane", lambda *a: (calls.append(1), real(*a))[1])
    AugCLIP().score(given)
    assert len(calls) == 2


def test_scikit_learn_waits_for_the_first_fit() -> None:
    code = (
        "import sys, scorekit.metrics.augclip as m; m.AugCLIP(); "
        "sys.exit('sklearn' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# What rows say.


def test_a_source_beyond_the_plane_is_its_own_ideal() -> None:
    given = triples()
    given["image"] = given["source"].copy()
    scores = AugCLIP().score(given)
    beyond = scores.components["source_side"] >= 0
    assert 0 < beyond.sum() < len(beyond)
    assert [row for row, note in scores.notes.items() if CROSSED in note] == list(
        np.flatnonzero(beyond)
    )
    np.testing.assert_allclose(scores.value[beyond], 1, atol=1e-12)
    assert (scores.value[~beyond] < 1 - 1e-6).all()
    assert all(SAME in note for note in scores.notes.values())
    np.testing.assert_allclose(scores.value, scores.components["unedited"], atol=1e-12)


def test_the_ideal_itself_gets_one() -> None:
    given = triples()
    metric = AugCLIP(margin=1.0, normalize=False)
    normal, offset = _hyperplane.fit_planes(
        given["source_attributes"], given["target_attributes"], "logistic", 1.0
    )
    side = np.sum(normal * given["source"], axis=1) + offset
    ideal = given["source"] + shortest_shift(side, normal, 1.0)
    scores = metric.score({**given, "image": ideal})
    np.testing.assert_allclose(scores.value, 1, atol=1e-9)
    np.testing.assert_allclose(scores.components["edited_side"], 1, atol=1e-6)


def test_attributes_of_one_meaning_give_no_direction() -> None:
    given = triples(n=2)
    given["target_attributes"][1] = given["source_attributes"][1]
    for classifier in ("logistic", "svm"):
        scores = AugCLIP(classifier=classifier).score(given)  # type: ignore[arg-type]
        assert scores.undefined == {1: FLAT}
        assert np.isfinite(scores.value).all()


def test_an_unedited_copy_has_no_direction_and_neither_have_equal_texts() -> None:
    given = triples(n=3)
    given["image"][0] = given["source"][0]
    given["text"][1] = given["source_text"][1]
    assert DirectionalCLIP().score(given).undefined == {0: SAME, 1: SAME_TEXT}


def test_clip_dir_is_directional_clip() -> None:
    given = triples()
    one, other = CLIPDir().score(given), DirectionalCLIP().score(given)
    assert one.value.tolist() == other.value.tolist()
    assert one.components.keys() == other.components.keys()
    assert CLIPDir(prefix="a ").needs == DirectionalCLIP(prefix="a ").needs


# Centring.


@pytest.mark.parametrize("center", ["source", "modality"])
def test_the_gap_between_modalities_does_not_matter_once_centred(center: Any) -> None:
    given = triples()
    elsewhere = {
        **given,
        **{key: given[key] + np.float32(3) for key in ("image", "source")},
    }
    metric = AugCLIP(center=center, normalize=False)
    here, there = metric.score(given), metric.score(elsewhere)
    for part in ("source_side", "edited_side", "shift"):
        np.testing.assert_allclose(here.components[part], there.components[part], atol=1e-5)
    plain = [AugCLIP(normalize=False).score(f).components for f in (given, elsewhere)]
    assert np.abs(plain[0]["source_side"] - plain[1]["source_side"]).max() > 0.1


def test_centred_on_its_own_attributes_a_source_is_on_its_side() -> None:
    given = triples(n=40)
    assert (AugCLIP().score(given).components["source_side"] >= 0).any()
    scores = AugCLIP(center="source", C=100.0).score(given)
    assert (scores.components["source_side"] < 0).all()
    other = AugCLIP(center="source", C=100.0).score({**given, "image": given["image"][::-1]})
    assert other.components["shift"].tolist() == scores.components["shift"].tolist()


def test_centring_by_modality_is_over_distinct_inputs_and_in_the_signature() -> None:
    given = triples(n=5)
    twice = {key: np.concatenate([v, v]) if isinstance(v, np.ndarray) else v * 2
             for key, v in given.items()}  # fmt: skip
    metric = AugCLIP(center="modality")
    assert metric.scope == "set"
    assert AugCLIP().scope == "row"
    once, doubled = metric.score(given), metric.score(twice)
    assert once.facts == doubled.facts
    assert once.facts["center_n"] == "5+55"
    np.testing.assert_allclose(doubled.value[:5], once.value, atol=1e-12)


# Parameters.


@pytest.mark.parametrize("C", [0.0, -1.0, float("inf"), float("nan")])
def test_c_is_above_zero(C: float) -> None:
    with pytest.raises(UsageError, match="augclip: C is above 0"):
        AugCLIP(C=C)


def test_margin_and_lam_are_checked() -> None:
    with pytest.raises(UsageError, match="margin is a number"):
        AugCLIP(margin=float("nan"))
    with pytest.raises(UsageError, match="lam lies in 0 to 1"):
        LambdaHarmonic(lam=1.5)


def test_attributes_come_from_columns_or_a_backbone() -> None:
    assert AugCLIP(attributes="columns") == AugCLIP()
    assert AugCLIP().recipe({})["attributes"] == "columns"
    assert "attributes" not in AugCLIP().needs
    metric = AugCLIP(attributes="openai:some-model")
    told = Feature("attributes", "openai:some-model", "sample")
    assert metric.needs["attributes"] == told
    assert metric.needs["source_attributes"].given_by == told
    assert metric.needs["target_attributes"].given_by == told


def test_what_a_model_wrote_is_the_evidence() -> None:
    given = triples(n=2)
    told = [{"source_attributes": ["a"], "target_attributes": ["b", "c"]}] * 2
    scores = AugCLIP(attributes="openai:m").score({**given, "attributes": told})
    assert scores.evidence[1] == told[1]
    assert AugCLIP().score(given).evidence == {}


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_weighted_harmonic_lies_between_its_parts(lam: float) -> None:
    a, b = np.random.default_rng(0).random((2, 50))
    mean = weighted_harmonic(a, b, lam)
    assert (mean >= np.minimum(a, b) - 1e-12).all()
    assert (mean <= lam * a + (1 - lam) * b + 1e-12).all()


# Through the engine, with the small checkpoint of the package.


def picture(seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def table() -> Any:
    mask = np.zeros((64, 64), dtype=np.uint8)
    mask[:32] = 255
    whole: dict[str, Any] = {
        "text": "a red square",
        "image": picture(1),
        "source_image": picture(0),
        "source_text": "a blue square",
        "source_attributes": ("a blue square", "something blue"),
        "target_attributes": ("a red square", "something red"),
        "mask": mask,
    }
    rows = {
        "whole": {},
        "no mask": {"mask": None},
        "no source": {"source_image": None},
        "no attributes": {"target_attributes": ()},
        "unedited": {"image": picture(0)},
        "no source text": {"source_text": None},
        "empty attribute": {"source_attributes": ("a blue square", " ")},
    }
    samples = [Sample(item=name, system="s", **{**whole, **row}) for name, row in rows.items()]
    with pytest.warns(UserWarning, match="scenes"):
        return score_samples(
            samples, EDITS, backbone="scenes-clip", options=RunOptions(cache=False, device="cpu")
        )


def cell(table: Any, metric: str, item: str) -> Any:
    frame = table.frame
    return frame[(frame["metric"] == metric) & (frame["item"] == item)].iloc[0]


def test_one_pass_gives_all_edit_metrics_with_their_components(table: Any) -> None:
    for metric in (text.partition(":")[0] for text in EDITS):
        assert cell(table, metric, "whole").status == "ok"
        for part in ("modification", "preservation", "locality"):
            found = cell(table, f"{metric}.{part}", "whole")
            assert found.status == "ok", (metric, part)
        assert 0.4 < cell(table, f"{metric}.locality", "whole").value < 0.6
    modification = {
        cell(table, f"{m.partition(':')[0]}.modification", "whole").value for m in EDITS
    }
    assert len({round(v, 6) for v in modification}) == 1


def test_a_row_without_a_mask_lacks_its_locality_alone(table: Any) -> None:
    assert cell(table, "augclip", "no mask").status == "ok"
    part = cell(table, "augclip.locality", "no mask")
    assert (part.status, np.isnan(part.value)) == ("undefined", True)
    assert "mask" in part.note


def test_what_a_row_lacks_for_a_component_alone_is_no_failure_of_it(table: Any) -> None:
    partial = table.partial_failures()
    assert set(partial["metric"]) == {f"{text.partition(':')[0]}.locality" for text in EDITS}
    # Where directional_clip has no value, neither has its locality: that is no partial failure.
    of_copies = partial[partial["item"] == "unedited"]
    assert len(of_copies) == len(EDITS) - 2
    assert len(partial) == len(of_copies) + len(EDITS)
    assert set(partial.index) < set(table.failures().index)


@pytest.mark.parametrize(
    ("metric", "item", "status", "note"),
    [
        ("augclip", "no source", "missing_input", "no source image"),
        ("clip_out", "no source", "missing_input", "no source image"),
        ("augclip", "no attributes", "missing_input", "no target attributes"),
        ("clip_im", "no attributes", "ok", ""),
        ("directional_clip", "unedited", "undefined", "nothing was edited"),
        ("clip_im", "unedited", "ok", "nothing was edited"),
        ("augclip", "unedited", "ok", "nothing was edited"),
        ("directional_clip", "no source text", "missing_input", "no source text"),
        ("augclip", "no source text", "ok", ""),
        ("augclip", "empty attribute", "empty_text", "source attributes"),
    ],
)
def test_bad_input_costs_its_row_and_says_why(
    table: Any, metric: str, item: str, status: str, note: str
) -> None:
    found = cell(table, metric, item)
    assert found.status == status
    assert note in found.note


def test_every_choice_is_in_the_signature(table: Any) -> None:
    signature = dict(table.signatures["augclip"].pairs)
    expected = {
        "classifier": "logistic", "C": "1", "center": "none", "margin": "0",
        "normalize": "True", "attributes": "columns", "prefix": "",
    }  # fmt: skip
    assert {key: signature[key] for key in expected} == expected
    assert "pixels" not in str(table.signatures["augclip"])
