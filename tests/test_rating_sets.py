"""Readers of rating sets, on small files in the published layouts that the tests write."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from scorekit.manifests import load_set
from scorekit.ratings import RatingSet
from scorekit.types import UsageError


def dump(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value), "utf-8")
    return path


def lines(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return path


def means(ratings: RatingSet, dimension: str | None = None) -> dict[tuple[str, str], float]:
    found = ratings.mean(dimension)
    return dict(zip(zip(found["system"], found["item"], strict=True), found["value"], strict=True))


def score(ratings: RatingSet, metric: str, system: str, item: str) -> float:
    assert ratings.scores is not None
    rows = ratings.scores
    at = (rows["metric"] == metric) & (rows["system"] == system) & (rows["item"] == item)
    return float(rows.loc[at, "value"].item())


# Images from prompts ------------------------------------------------------------------------


def tifa_record(**changes: Any) -> dict[str, Any]:
    return {
        "text_id": "coco_1",
        "image_path": "coco_1_mini_dalle.jpg",
        "text": "a cat",
        "human_scores": [5, 4],
        "human_avg": 4.5,
        "meteor": 0.37,
        "clipscore_vitb32": 33.5,
        "tifa_vilt": 1.0,
        **changes,
    }


def test_tifa(tmp_path) -> None:
    path = tmp_path / "human_annotations_with_scores.json"
    dump(path, {"coco_1_mini_dalle": tifa_record()})
    ratings = load_set("tifa160", tmp_path)
    assert means(ratings) == {("mini_dalle", "coco_1"): 4.5}
    assert score(ratings, "clipscore_vitb32", "mini_dalle", "coco_1") == 33.5
    assert math.isnan(score(ratings, "spice", "mini_dalle", "coco_1"))  # missing, not 0
    assert ratings.samples["source"].tolist() == ["coco"]
    assert ratings.licence == "Apache-2.0" and "hu2023tifa" in ratings.citation


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_id": "coco_2"}, "does not begin with the text_id"),
        ({"human_scores": None}, "human_scores is missing"),
        ({"human_scores": [5, 6]}, "off the scale 1 to 5"),
        ({"human_scores": [5, "good"]}, "'good' is no number"),
    ],
)
def test_what_is_wrong_with_a_record_of_tifa_is_said(change, message, tmp_path) -> None:
    path = tmp_path / "human_annotations_with_scores.json"
    dump(path, {"coco_1_mini_dalle": tifa_record(**change)})
    with pytest.raises(UsageError, match=message):
        load_set("tifa160", tmp_path)


def test_a_key_that_is_twice_in_a_json_object_is_an_error(tmp_path) -> None:
    record = json.dumps(tifa_record())
    text = f'{{"coco_1_mini_dalle": {record}, "coco_1_mini_dalle": {record}}}'
    (tmp_path / "human_annotations_with_scores.json").write_text(text)
    with pytest.raises(UsageError, match="'coco_1_mini_dalle' is there twice"):
        load_set("tifa160", tmp_path)


LIKERT = "dsg_prompt_split,t2i_model,item_id,source_id,worker_id,question,answer\n"
ASKED = "dsg_prompt_split,qg_model,t2i_model,item_id,question,question_id,dependency_id,answer\n"


def dsg_files(folder: Path) -> None:
    rows = [
        f"tifa160,sd1dot5,tifa160_{n},coco_{n},{w},How?,{a}\n"
        for n, w, a in ((1, 7, 5), (1, 8, 3), (2, 7, 1), (3, 7, 2))
    ]
    (folder / "tifa160-likert-anns.csv").write_text(LIKERT + "".join(rows))
    rows = [
        "tifa160,dsg,sd1dot5,tifa160_1,A dog?,1,0,no\n",
        'tifa160,dsg,sd1dot5,tifa160_1,A red dog?,2,"1,9",yes\n',
        "tifa160,dsg,sd1dot5,tifa160_1,A cat?,3,0,yes\n",
        "tifa160,dsg,sd1dot5,tifa160_1,A black cat?,4,3,yes\n",
        "tifa160,dsg,sd1dot5,tifa160_2,A dog?,1,0,yes\n",
        "tifa160,dsg,sd1dot5,tifa160_2,A cat?,2,0,\n",
        "whoops,dsg,sd2dot1,whoops_1,A cube?,1,0,yes\n",
    ]
    (folder / "dsg-1k-anns.csv").write_text("item_id,text\ntifa160_1,a red dog\n")
    (folder / "mplug_dsg.csv").write_text(ASKED + "".join(rows))


def test_dsg(tmp_path) -> None:
    dsg_files(tmp_path)
    ratings = load_set("dsg-tifa160", tmp_path)
    system = "stable_diffusion_v1_5"
    assert means(ratings)[system, "coco_1"] == 4
    assert score(ratings, "mplug_dsg", system, "coco_1") == 0.5
    assert score(ratings, "mplug_dsg:no_dependency", system, "coco_1") == 0.75
    assert ratings.samples["image"][0] == f"coco_1_{system}.jpg"
    assert ratings.samples["text"].dropna().tolist() == ["a red dog"]


def test_a_question_without_an_answer_is_unscored_but_as_published_it_is_no(tmp_path) -> None:
    dsg_files(tmp_path)
    ratings = load_set("dsg-tifa160", tmp_path)
    system = "stable_diffusion_v1_5"
    for item, published in (("coco_2", 0.5), ("coco_3", 0.0)):  # no answer, no question
        assert math.isnan(score(ratings, "mplug_dsg", system, item))
        assert score(ratings, "mplug_dsg:as_published", system, item) == published


def test_a_question_given_twice_is_an_error(tmp_path) -> None:
    dsg_files(tmp_path)
    with (tmp_path / "mplug_dsg.csv").open("a") as file:
        file.write("tifa160,dsg,sd1dot5,tifa160_1,A dog?,1,0,yes\n")
    with pytest.raises(UsageError, match="line 9: the question '1' is there twice"):
        load_set("dsg-tifa160", tmp_path)


def test_genai_bench(tmp_path) -> None:
    record = {"prompt": "a cat", "models": {"DALLE_3": [5, 4, 4], "SDXL_Base": [3, 3, None]}}
    dump(tmp_path / "genai_image.json", {"00003": record})
    dump(tmp_path / "genai_skills.json", {"counting": [3], "basic": [3, 4]})
    ratings = load_set("genai-bench-image", tmp_path)
    assert means(ratings)["DALLE_3", "00003"] == pytest.approx(13 / 3)
    assert means(ratings)["SDXL_Base", "00003"] == 3 and ratings.n_missing == 1
    assert ratings.samples["skills"].tolist() == ["counting|basic"] * 2
    assert ratings.samples["image"][0] == "DALLE_3/00003.jpeg"
    assert ratings.matrix().values.shape == (3, 2)


def test_genai_video_and_3d_are_of_the_same_layout(tmp_path) -> None:
    dump(tmp_path / "genai_video.json", {"00001": {"prompt": "x", "models": {"Gen2": [1, 2]}}})
    dump(tmp_path / "stanfordt23d.json", {"1": {"prompt": "x", "models": {"shap-e": [2, 5, 3]}}})
    assert load_set("genai-bench-video", tmp_path).samples["image"][0] == "Gen2/00001.mp4"
    assert means(load_set("stanfordt23d", tmp_path)) == {("shap-e", "1"): 10 / 3}


def test_tvge_has_two_dimensions_in_two_files(tmp_path) -> None:
    for what, value in (("alignment", 1.3), ("quality", 4.5)):
        record = {"prompt": "a horse", "models": {"gen2": [value], "pika": []}}
        dump(tmp_path / f"t2vscore_{what}_score.json", {"10": record})
    ratings = load_set("tvge", tmp_path)
    assert means(ratings, "alignment") == {("gen2", "10"): 1.3}
    assert means(ratings, "quality") == {("gen2", "10"): 4.5}
    assert ratings.samples["image"][0] == "gen2/0010.mp4"


def test_genai_ranking_has_nine_images_a_prompt(tmp_path) -> None:
    images = {str(n): [n % 5 + 1, 3] for n in range(1, 10)}
    record = {"id": "7", "prompt": "a cat", "models": {"DALLE_3": images}}
    dump(tmp_path / "human_rating.json", {"7": record})
    ratings = load_set("genai-bench-ranking", tmp_path)
    assert ratings.mean()["index"].tolist() == list(range(9))
    assert ratings.samples["image"][8] == "DALLE_3/00007_09.jpeg"


def test_agiqa(tmp_path) -> None:
    header = "name,prompt,adj1,adj2,style,mos_quality,std_quality,mos_align,std_align\n"
    rows = (
        "sd1.5_lowstep_000.jpg,a cat,,,anime,1.5,0.2,2.5,0.3\nDALLE2_normal_000.jpg,a cat,,,,2,,,\n"
    )
    (tmp_path / "data.csv").write_text(header + rows)
    ratings = load_set("agiqa-3k", tmp_path)
    assert means(ratings, "quality") == {
        ("sd1.5_lowstep", "a cat"): 1.5,
        ("DALLE2_normal", "a cat"): 2,
    }
    assert len(ratings.mean("align")) == 1 and ratings.n_missing == 1
    assert ratings.samples["setting"].tolist() == ["lowstep", "normal"]


def test_geneval(tmp_path) -> None:
    columns = ["HITId", "Input.prompt_id", "Input.image_id", "Input.image_url", "Input.caption"]
    columns += ["Input.object_1_name", "Answer.task-quality"]
    for system in ("sdv2", "if-xl"):
        rows = [["h", 328, 1, "http://x/1.png", "a white bear", "", q] for q in (4, 3, "")]
        pd.DataFrame(rows, columns=columns).to_csv(
            tmp_path / f"annotations_{system}.csv", index=False
        )
    ratings = load_set("geneval", tmp_path)
    assert means(ratings) == {("if-xl", "328"): 3.5, ("sdv2", "328"): 3.5}
    assert ratings.n_missing == 2 and ratings.samples["index"].tolist() == [1, 1]


def test_evalmuse(tmp_path) -> None:
    elements = str({"cat (animal)": [1, 0, 1], "two (counting)": [0, 0, 1]})
    record = {"prompt_id": 3, "prompt": "two cats", "type": "real", "img_path": "SDXL/00003.png"}
    record |= {"total_score": [4, 2, 5], "element_score": elements}
    dump(tmp_path / "train_list.json", [record])
    ratings = load_set("evalmuse-40k", tmp_path)
    assert means(ratings, "overall") == {("SDXL", "3"): 11 / 3}
    assert ratings.ratings("elements")["value"].tolist() == [0.5, 0, 1]
    dump(tmp_path / "train_list.json", [{**record, "element_score": "__import__('os')"}])
    with pytest.raises(UsageError, match="element_score must be lists"):
        load_set("evalmuse-40k", tmp_path)


def test_richhf(tmp_path) -> None:
    row = {"filename": "a/1.png", "prompt": "a cat", "artifact_score": 0.5}
    row |= {"misalignment_score": 1.0, "aesthetics_score": 0.25, "overall_score": None}
    pd.DataFrame([row]).to_parquet(tmp_path / "richhf_18k.parquet")
    ratings = load_set("richhf-18k", tmp_path)
    assert means(ratings, "plausibility") == {("", "a/1.png"): 0.5}
    assert ratings.mean("overall").empty and ratings.n_missing == 1


def test_a_set_without_a_public_file_takes_ones_own_table(tmp_path) -> None:
    (tmp_path / "ratings.csv").write_text("system,item,rater,value\nsd,1,ann,4\n")
    ratings = load_set("t2i-compbench", tmp_path)
    assert means(ratings) == {("sd", "1"): 4} and ratings.name == "t2i-compbench"


# Edits --------------------------------------------------------------------------------------


def viescore_files(folder: Path, cells: str = "[0.5, 1]") -> None:
    sub = folder / "ImagenHub_Text-Guided_IE"
    sub.mkdir()
    for rater, cell in ((1, cells), (2, "[1,1]"), (3, "[0, 0.5]")):
        text = f"uid\tDiffEdit\tImagic\nsample_1.jpg\t{cell}\t[0,0]\n"
        (sub / f"Text-Guided_IE_rater{rater}.tsv").write_text(text)
    (folder / "metric_scores.csv").write_text(
        "task,system,uid,metric,s1,s2\n"
        "Text-Guided_IE,DiffEdit,sample_1.jpg,gpt4o_0shot:SC,8,2\n"
        "Text-Guided_IE,DiffEdit,sample_1.jpg,gpt4o_0shot:PQ,9,\n"
        "Text-Guided_IE,DiffEdit,sample_1.jpg,LPIPS,0.2,\n"
        "Subject-Driven_IG,SuTI,sample_1.jpg,DINO,0.7,\n"
    )


def test_viescore(tmp_path) -> None:
    viescore_files(tmp_path)
    ratings = load_set("viescore-editing", tmp_path)
    key = "DiffEdit", "sample_1.jpg"
    assert means(ratings, "sc")[key] == 0.5
    assert means(ratings, "pq")[key] == pytest.approx(2.5 / 3)
    assert means(ratings, "overall")[key] == pytest.approx((math.sqrt(0.5) + 1 + 0) / 3)
    assert ratings.frame["rater"].unique().tolist() == ["rater1", "rater2", "rater3"]
    expected = {"gpt4o_0shot:SC": 2, "gpt4o_0shot:SC:s1": 8, "gpt4o_0shot:SC:geometric": 4}
    expected |= {"gpt4o_0shot:PQ": 9, "gpt4o_0shot:O": math.sqrt(18), "LPIPS": 0.2}
    for metric, value in expected.items():
        assert score(ratings, metric, *key) == pytest.approx(value)
    assert math.isnan(score(ratings, "gpt4o_0shot:PQ:s2", *key))
    assert "DINO" not in set(ratings.scores["metric"]) and ratings.lower_is_better == ("LPIPS",)


@pytest.mark.parametrize("cell", ["[0.5]", "0.5, 1", "[0.5, 1, 1]", "{}"])
def test_a_cell_of_viescore_is_a_pair(cell, tmp_path) -> None:
    viescore_files(tmp_path, cell)
    with pytest.raises(UsageError, match=r"line 2: .* is not \[sc, pq\]"):
        load_set("viescore-editing", tmp_path)


def test_an_empty_cell_of_viescore_is_missing(tmp_path) -> None:
    viescore_files(tmp_path, "")
    ratings = load_set("viescore-editing", tmp_path)
    assert means(ratings, "sc")["DiffEdit", "sample_1.jpg"] == 0.5  # of the other two
    assert ratings.n_missing == 3


def test_editval_is_of_tasks_until_one_adds_ratings(tmp_path) -> None:
    edits = {"object_addition": {"from": None, "to": ["cup", "bag"]}, "color": ["red"]}
    dump(tmp_path / "object.json", {"bench": {"153243": edits}})
    ratings = load_set("editval", tmp_path)
    assert len(ratings) == 0 and ratings.notes == ("no ratings are published",)
    assert ratings.samples["item"].tolist()[0] == "153243/object_addition/cup"
    own = "system,item,rater,value\nimagic,153243/color/red,ann,1\n"
    (tmp_path / "ratings.csv").write_text(own)
    ratings = load_set("editval", tmp_path)
    assert means(ratings) == {("imagic", "153243/color/red"): 1}
    assert ratings.samples["text"].tolist() == ["color of bench: red"]
    (tmp_path / "ratings.csv").write_text(own.replace("red", "blue"))
    with pytest.raises(UsageError, match="no item '153243/color/blue' in the set"):
        load_set("editval", tmp_path)


def test_tedbench(tmp_path) -> None:
    pd.DataFrame({"caption": ["A bowl of apples."]}).to_parquet(tmp_path / "tedbench.parquet")
    ratings = load_set("tedbench", tmp_path)
    assert ratings.samples["text"].tolist() == ["A bowl of apples."] and len(ratings) == 0


# Captions -----------------------------------------------------------------------------------

IMAGE, OTHER = "10_a.jpg", "20_b.jpg"
TOKENS = {
    f"{IMAGE}#0": "a dog",
    f"{IMAGE}#1": "one dog",
    f"{OTHER}#0": "a cat",
    f"{OTHER}#1": "a dog",
}


def flickr_files(folder: Path, expert: list[str], crowd: list[str]) -> None:
    (folder / "Flickr8k.token.txt").write_text("".join(f"{k}\t{v}\n" for k, v in TOKENS.items()))
    (folder / "ExpertAnnotations.txt").write_text("".join(f"{row}\n" for row in expert))
    (folder / "CrowdFlowerAnnotations.txt").write_text("".join(f"{row}\n" for row in crowd))


def test_flickr8k_expert_drops_candidates_among_the_references(tmp_path) -> None:
    expert = [
        f"{IMAGE}\t{OTHER}#0\t1\t1\t2",
        f"{IMAGE}\t{OTHER}#1\t4\t4\t4",
        f"{OTHER}\t{IMAGE}#1\t2\t3\t2",
    ]
    flickr_files(tmp_path, expert, [])
    ratings = load_set("flickr8k-expert", tmp_path)
    # "a dog" of the other image is, word for word, one of this image's captions.
    assert ratings.notes == ("1 candidates that are among the image's references were left out",)
    assert ratings.pooling == "each" and len(ratings) == 6  # each rating is a row
    assert ratings.ratings()["value"].tolist() == [1, 1, 2, 2, 3, 2]
    assert ratings.samples["references"][0] == ["a dog", "one dog"]
    assert ratings.frame["item"].unique().tolist() == [IMAGE, OTHER]


def test_flickr8k_cf_takes_a_candidate_from_the_references_of_all_its_rows(tmp_path) -> None:
    crowd = [
        f"{IMAGE}\t{OTHER}#0\t0\t0\t3",
        f"{IMAGE}\t{OTHER}#1\t1\t3\t0",
        f"{OTHER}\t{IMAGE}#1\t.5\t2\t2",
    ]
    flickr_files(tmp_path, [], crowd)
    ratings = load_set("flickr8k-cf", tmp_path)
    assert ratings.pooling == "mean" and ratings.ratings()["value"].tolist() == [0, 1, 0.5]
    # Also in the first row, which comes before the candidate that does it.
    assert ratings.samples["references"].tolist() == [["one dog"], ["one dog"], ["a cat", "a dog"]]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (f"{OTHER}#0\t{IMAGE}\t1\t1\t2", "image and caption id are in each other's place"),
        (f"{IMAGE}\t{OTHER}#9\t1\t1\t2", f"no caption '{OTHER}#9'"),
        (f"30_c.jpg\t{OTHER}#0\t1\t1\t2", "no image '30_c.jpg'"),
        (f"{IMAGE}\t{OTHER}#0\t1\t1", "line 1: 4 cells where 5 belong"),
        (f"{IMAGE}\t{OTHER}#0\t1\t1\t2\n" * 2, "there twice"),
        (f"{IMAGE}\t{OTHER}#0\t0\t1\t2", "off the scale 1 to 4"),
    ],
)
def test_a_wrong_row_of_flickr8k_expert_is_an_error(row, message, tmp_path) -> None:
    flickr_files(tmp_path, [row.rstrip("\n")], [])
    with pytest.raises(UsageError, match=message):
        load_set("flickr8k-expert", tmp_path)


def test_a_share_of_flickr8k_cf_that_is_not_its_counts_is_an_error(tmp_path) -> None:
    flickr_files(tmp_path, [], [f"{IMAGE}\t{OTHER}#0\t0.5\t0\t3"])
    with pytest.raises(UsageError, match=r"0 yes and 3 no do not make a share of 0\.5"):
        load_set("flickr8k-cf", tmp_path)


def test_a_missing_rating_of_flickr8k_expert_is_not_zero(tmp_path) -> None:
    flickr_files(tmp_path, [f"{IMAGE}\t{OTHER}#0\t3\tNaN\t4"], [])
    ratings = load_set("flickr8k-expert", tmp_path)
    assert ratings.ratings()["value"].tolist() == [3, 4] and ratings.n_missing == 1


def test_composite(tmp_path) -> None:
    texts = ";".join(f"Input.text{n}" for n in (1, 2, 3))
    answers = ";".join(f"Answer.Q{n}Answer" for n in (1, 2, 3))
    header = f"HITId;Input.image_url;{texts};{answers}\n"
    first = "h;http://x/1.jpg;a dog;one cat;a cow;5;2;\n"
    swapped = "h;http://x/1.jpg;one cat;a dog;a cow;1;4;3\n"
    (tmp_path / "8k_correctness.csv").write_text(header + first + ";;;;;;;\n")
    (tmp_path / "8k_throughness.csv").write_text(header + swapped)
    ratings = load_set("composite", tmp_path)
    assert means(ratings, "correctness") == {("text1", "1.jpg"): 5, ("text2", "1.jpg"): 2}
    # By the text, not by its place in the row.
    assert means(ratings, "thoroughness")["text1", "1.jpg"] == 4
    assert ratings.n_missing == 1 and ratings.notes == (
        "1 rows without an image or texts were left out",
    )


def test_thumb(tmp_path) -> None:
    record = {
        "SYS": "VinVL-base",
        "seg_id": "542325",
        "set_id": 4664,
        "hyp": "A bench.",
        "image": "x.jpg",
    }
    record |= {"P": 3.0, "R": 4.0, "Fl": -0.1, "Inc": -0.0, "Con": -0.0, "human_score": 3.4}
    lines(tmp_path / "mscoco_THumB-1.0.jsonl", record)
    lines(tmp_path / "mscoco_references.json", {"seg_id": 542325, "refs": ["one", "two"]})
    ratings = load_set("thumb", tmp_path)
    assert means(ratings, "overall") == {("VinVL-base", "542325"): 3.4}
    assert means(ratings, "fluency") == {("VinVL-base", "542325"): -0.1}
    assert ratings.samples["references"][0] == ["one", "two"]


def pascal_files(folder: Path, winners: list[int], voted: str = "b dog") -> None:
    from scipy.io import savemat

    def table(rows: list[tuple[Any, ...]]) -> Any:
        kind = [(f"f{n}", object) for n in range(len(rows[0]))]
        out = np.zeros((1, len(rows)), dtype=kind)
        for n, row in enumerate(rows):
            for name, cell in zip((k for k, _ in kind), row, strict=True):
                out[0, n][name] = cell
        return out

    savemat(
        folder / "pair_pascal.mat",
        {"new_input": table([("1.jpg", "a dog ", "b dog")]), "category": [[3]]},
    )
    rows = [(f"reference {n}", "a dog", voted, winner) for n, winner in enumerate(winners)]
    savemat(folder / "consensus_pascal.mat", {"triplets": table(rows)})


@pytest.mark.parametrize(
    ("winners", "choice"), [([1, 1, -1], "a"), ([-1, -1, 1], "b"), ([1, -1], "tie")]
)
def test_pascal50s_is_the_majority_of_the_votes(winners, choice, tmp_path) -> None:
    pascal_files(tmp_path, winners)
    ratings = load_set("pascal-50s", tmp_path)
    assert ratings.frame["choice"].tolist() == [choice]
    assert ratings.samples["text"].tolist() == ["a dog", "b dog"]
    assert ratings.samples["category"].tolist() == ["HM", "HM"]
    assert len(ratings.samples["references"][0]) == len(winners)


def test_votes_for_other_captions_are_an_error(tmp_path) -> None:
    pascal_files(tmp_path, [-1], voted="another")
    with pytest.raises(UsageError, match="the votes of pair 0 are for other captions"):
        load_set("pascal-50s", tmp_path)
    (tmp_path / "pair_pascal.mat").write_bytes(b"no matlab")
    with pytest.raises(UsageError, match=r"not Pascal-50S's \.mat files"):
        load_set("pascal-50s", tmp_path)


def test_finecapeval_has_references_and_no_ratings(tmp_path) -> None:
    header = "image,caption,background,object,relation\n"
    rows = "1.jpg,one,grass,dog,on\n1.jpg,two,grass,dog,on\n2.jpg,three,,cat,by\n"
    (tmp_path / "FineCapEval.csv").write_text(header + rows)
    ratings = load_set("finecapeval", tmp_path)
    assert ratings.samples["references"].tolist() == [["one", "two"]]
    assert len(ratings) == 0 and ratings.notes == ("1 rows with an empty cell were left out",)


# Groups and labels --------------------------------------------------------------------------


def cells(ratings: RatingSet) -> list[tuple[str, str, float]]:
    frame = ratings.frame
    return list(zip(frame["item"], frame["system"], frame["value"], strict=True))


def test_winoground(tmp_path) -> None:
    record = {"id": 0, "collapsed_tag": "Object", "num_main_preds": 1}
    record |= {f"caption_{n}": f"text {n}" for n in (0, 1)} | {
        f"image_{n}": f"ex_0_img_{n}" for n in (0, 1)
    }
    lines(tmp_path / "examples.jsonl", record)
    ratings = load_set("winoground", tmp_path)
    assert ratings.kind == "groups"
    assert cells(ratings) == [
        ("0", "c0_i0", 1),
        ("0", "c0_i1", 0),
        ("0", "c1_i0", 0),
        ("0", "c1_i1", 1),
    ]
    assert ratings.frame[["caption", "picture"]].to_numpy().tolist() == [
        [0, 0],
        [0, 1],
        [1, 0],
        [1, 1],
    ]
    row = ratings.samples.iloc[1]
    assert (row["text"], row["image"], row["tag"]) == ("text 0", "ex_0_img_1", "Object")


def test_groups_go_through_a_file(tmp_path) -> None:
    test_winoground(tmp_path)
    ratings = load_set("winoground", tmp_path)
    found = RatingSet.load(ratings.save(tmp_path / "w.csv"))
    pd.testing.assert_frame_equal(found.frame, ratings.frame)
    assert found.kind == "groups" and found.tags == ["tag", "predicates"]


def test_eqben(tmp_path) -> None:
    record = {
        "image0": "eqbenag/1.png",
        "image1": "eqbenag/2.png",
        "caption0": "a",
        "caption1": "b",
    }
    dump(tmp_path / "all_select.json", [record])
    ratings = load_set("eqben", tmp_path)
    assert len(ratings) == 4 and ratings.samples["subset"].unique().tolist() == ["eqbenag"]


def test_aro(tmp_path) -> None:
    record = {"image_path": "1.jpg", "true_caption": "a on b", "false_caption": "b on a"}
    record |= {"bbox_x": 1, "bbox_y": 2, "bbox_w": 3, "bbox_h": 4}
    dump(tmp_path / "visual_genome_relation.json", [{**record, "relation_name": "on"}])
    dump(tmp_path / "visual_genome_attribution.json", [{**record, "attributes": ["red", "big"]}])
    ratings = load_set("aro", tmp_path)
    assert cells(ratings)[:2] == [("relation/0", "c0_i0", 1), ("relation/0", "c1_i0", 0)]
    assert ratings.samples["kind"].unique().tolist() == ["on", "red_big"]
    assert ratings.samples["box"][0] == [1, 2, 3, 4] and ratings.tags == ["part", "kind"]


def test_valse_keeps_what_two_annotators_bore_out(tmp_path) -> None:
    record = {"dataset": "SWiG", "image_file": "1.jpg", "caption": "A man.", "foil": "A torso."}
    good, bad = ({**record, "mturk": {"caption": n, "foil": 3 - n, "other": 0}} for n in (2, 1))
    dump(tmp_path / "existence.json", {"e_0": good, "e_1": bad})
    ratings = load_set("valse", tmp_path)
    assert cells(ratings) == [("existence/e_0", "c0_i0", 1), ("existence/e_0", "c1_i0", 0)]
    assert ratings.notes == ("1 pairs that fewer than two annotators bore out",)


def test_foil(tmp_path) -> None:
    right = {"id": 7, "foil_id": 0, "image_id": 1, "caption": "a dog", "foil": False}
    right |= {"target_word": "ORIG", "foil_word": "ORIG"}
    wrong = {**right, "caption": "a cat", "foil": True, "target_word": "dog", "foil_word": "cat"}
    images = [{"id": 1, "file_name": "1.jpg"}]
    dump(tmp_path / "foilv1.0_test_2017.json", {"images": images, "annotations": [right, wrong]})
    ratings = load_set("foil", tmp_path)
    assert ratings.samples["text"].tolist() == ["a dog", "a cat"]
    assert cells(ratings) == [("7/0", "c0_i0", 1), ("7/0", "c1_i0", 0)]


def test_sugar_crepe(tmp_path) -> None:
    record = {"filename": "1.jpg", "caption": "a red dog", "negative_caption": "a blue dog"}
    for name in (
        "add_att",
        "add_obj",
        "replace_att",
        "replace_obj",
        "replace_rel",
        "swap_att",
        "swap_obj",
    ):
        dump(tmp_path / f"{name}.json", {"0": record})
    ratings = load_set("sugar-crepe", tmp_path)
    assert len(ratings) == 14 and cells(ratings)[0] == ("add_att/0", "c0_i0", 1)
    assert sorted(ratings.samples["part"].unique())[-1] == "swap_obj"


def test_seetrue(tmp_path) -> None:
    header = "image,text,label,original_dataset_id,dataset_source\n"
    (tmp_path / "SeeTRUE.csv").write_text(
        header + "1.png,a cat,0,x,drawbench\n2.png,a cat,1,y,coco_t2i\n"
    )
    ratings = load_set("seetrue", tmp_path)
    assert ratings.kind == "labels" and cells(ratings) == [
        ("a cat", "1.png", 0),
        ("a cat", "2.png", 1),
    ]


# Preferences --------------------------------------------------------------------------------


def test_imagereward(tmp_path) -> None:
    record = {"id": "001", "prompt": "a cat", "generations": ["x", "y", "z"], "ranking": [1, 3, 3]}
    dump(tmp_path / "test.json", [record])
    ratings = load_set("imagereward-test", tmp_path)
    assert ratings.frame["choice"].tolist() == ["a", "a", "tie"]
    dump(tmp_path / "test.json", [{**record, "ranking": [1, 2]}])
    with pytest.raises(UsageError, match=r"3 images \(3 different\) and 2 places"):
        load_set("imagereward-test", tmp_path)


def test_an_id_given_twice_is_an_error(tmp_path) -> None:
    record = {"id": "001", "prompt": "a cat", "generations": ["x", "y"], "ranking": [1, 2]}
    turned = {**record, "generations": ["y", "x"]}
    dump(tmp_path / "test.json", [record, turned])
    with pytest.raises(UsageError, match="samples: 2 keys are there twice"):
        load_set("imagereward-test", tmp_path)


def test_hpdv2(tmp_path) -> None:
    record = {
        "prompt": "a cat",
        "image_path": ["x.jpg", "y.jpg"],
        "rank": [2, 1],
        "raw_annotations": [],
    }
    dump(tmp_path / "test.json", [record])
    ratings = load_set("hpdv2-test", tmp_path)
    assert ratings.frame[["item", "choice"]].to_numpy().tolist() == [["0000", "b"]]


def test_pickapic(tmp_path) -> None:
    row = {"ranking_id": 1, "caption": "a cat", "user_id": 5, "has_label": True, "label_0": 0.5}
    row |= {f"image_{n}_uid": f"uid{n}" for n in (0, 1)} | {f"model_{n}": f"m{n}" for n in (0, 1)}
    other = {**row, "ranking_id": 2, "has_label": False}
    pd.DataFrame([row, other]).to_parquet(tmp_path / "test_unique.parquet")
    ratings = load_set("pickapic-test", tmp_path)
    assert ratings.frame["choice"].tolist() == ["tie"] and ratings.frame["rater"].tolist() == ["5"]
    assert ratings.samples["model"].tolist() == ["m0", "m1"]
    assert ratings.notes == ("1 pairs without a label were left out",)


# Errors that all readers share --------------------------------------------------------------


def test_a_missing_file_is_named_with_the_way_to_it(tmp_path) -> None:
    with pytest.raises(
        UsageError, match=r"no data\.csv in .*; `scorekit data fetch agiqa-3k` gets it"
    ):
        load_set("agiqa-3k", tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{", "not JSON"), (b"[]", "not a JSON object"), (b"\xff\xfe\x00", "not UTF-8")],
)
def test_a_broken_file_is_one_clear_error(content, message, tmp_path) -> None:
    (tmp_path / "human_annotations_with_scores.json").write_bytes(content)
    with pytest.raises(UsageError, match=message):
        load_set("tifa160", tmp_path)


def test_a_row_that_is_too_long_is_an_error(tmp_path) -> None:
    header = "name,prompt,adj1,adj2,style,mos_quality,std_quality,mos_align,std_align\n"
    (tmp_path / "data.csv").write_text(header + "x_y_0.jpg,a, cat,,,,1,1,1,1\n")
    with pytest.raises(UsageError, match="line 2: 10 cells, the header has 9"):
        load_set("agiqa-3k", tmp_path)
