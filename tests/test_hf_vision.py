"""DINO-like vision transformers against transformers' own forward passes, with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import picture

from scorekit.backbones.handle import get_handle
from scorekit.run import RunOptions, score_samples
from scorekit.types import Array, InputError, Sample, UsageError, image_embedding, text_embedding

SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 16}
KINDS = ("vit", "dinov2", "dinov3_vit")
PATCH = 16

SOURCE = np.asarray(picture(3, 64, 64))
EDITED = np.asarray(picture(4, 64, 64))
MASK = np.zeros((64, 64), np.uint8)
MASK[16:50, 8:40] = 255


def make(folder: Path, kind: str) -> Path:
    import transformers

    torch.manual_seed(0)
    config = {"vit": "ViTConfig", "dinov2": "Dinov2Config", "dinov3_vit": "DINOv3ViTConfig"}[kind]
    more = {"num_register_tokens": 2} if kind == "dinov3_vit" else {"intermediate_size": 32}
    model = transformers.AutoModel.from_config(
        getattr(transformers, config)(image_size=32, **SHAPE, **more)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
    model.save_pretrained(folder)
    transformers.ViTImageProcessor(
        size={"height": 32, "width": 32}, resample=2,
        image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225],
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.fixture(scope="module", params=KINDS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The backbone's name, and transformers' own model."""
    from transformers import AutoModel

    folder = make(tmp_path_factory.mktemp("vision") / request.param, request.param)
    return f"hf:{folder}", AutoModel.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"hf:{make(tmp_path_factory.mktemp('vision') / 'tiny-vit', 'vit')}"


def edit(item: str = "0", **changed: Any) -> Sample:
    given = {"image": EDITED, "source_image": SOURCE, "mask": MASK, **changed}
    return Sample(item, "s", "a text", given.pop("image"), **given)


def scored(samples: list[Sample], metric: str, backbone: str, **options: Any) -> dict[str, Any]:
    table = score_samples(
        samples, [metric], backbone=backbone,
        options=RunOptions(cache=False, device="cpu", **options),
    )  # fmt: skip
    columns: dict[str, list[Any]] = {}
    for row in table.frame.itertuples():
        ok = row.status == "ok"
        columns.setdefault(row.metric, []).append(row.value if ok else (row.status, row.note))
    return columns


def cls_of(model: Any, folder: str, image: Array) -> Array:
    from transformers import AutoImageProcessor

    # PIL's own resize, which is exact; the processors of today resize tensors.
    small = Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR)
    processor = AutoImageProcessor.from_pretrained(folder)
    pixels = processor(images=small, return_tensors="pt", do_resize=False)["pixel_values"]
    with torch.no_grad():
        found: Array = model(pixel_values=pixels).last_hidden_state[0, 0].numpy()
    return found


def test_the_embedding_is_transformers_own_cls_token(case: Any) -> None:
    name, model = case
    backbone = get_handle(name).model()
    feature = image_embedding(name)
    images = [picture(i, 40 + i, 50) for i in range(3)]
    prepared = [backbone.prepare(feature, image) for image in images]
    for size in (1, 2):
        found = backbone.extract(feature, prepared, batch_size=size)
        for one, image in zip(found, images, strict=True):
            expected = cls_of(model, name.removeprefix("hf:"), np.asarray(image))
            np.testing.assert_allclose(one.array, expected, rtol=1e-4, atol=1e-5)


def test_dino_i_is_the_cosine_of_cls_tokens(case: Any) -> None:
    name, model = case
    folder = name.removeprefix("hf:")
    a, b = cls_of(model, folder, EDITED), cls_of(model, folder, SOURCE)
    cos = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    found = scored([edit("0"), edit("1", image=SOURCE), edit("2", mask=None)], "dino_i", name)
    assert found["dino_i"][0] == pytest.approx(cos, abs=1e-5)
    assert found["dino_i.modification"][0] == pytest.approx(1 - cos, abs=1e-5)
    assert found["dino_i.preservation"] == found["dino_i"]
    assert found["dino_i"][1] == pytest.approx(1, abs=1e-6)
    assert found["dino_i"][2] == found["dino_i"][0]
    change = ((EDITED / 255 - SOURCE / 255) ** 2).sum(axis=2)
    assert found["dino_i.locality"][0] == pytest.approx(change[MASK > 0].sum() / change.sum())
    assert found["dino_i.locality"][2] == ("undefined", "the row has no mask")


def test_more_modified_is_more_by_every_distance(vit: str) -> None:
    metrics = ["mse", "psnr", f"dino_i@{vit}", f"structure_distance:layer=1@{vit}"]
    options = RunOptions(cache=False, device="cpu")
    infos = score_samples([edit()], metrics, options=options).metrics
    # Of these, PSNR alone goes down where more was modified.
    found = {
        name.rpartition(".")[0]: info.higher_is_better
        for name, info in infos.items()
        if name.endswith(".modification")
    }
    assert sorted(found.values()) == [False, True, True, True]
    assert not found["psnr"]


def test_dino_i_against_photos_of_a_subject(vit: str) -> None:
    photos = (SOURCE, EDITED)
    sample = Sample("0", "s", "a text", EDITED, reference_images=photos)
    against_source = scored([edit()], "dino_i", vit)["dino_i"][0]
    found = scored([sample], "dino_i:against=reference", vit)
    assert found.keys() == {"dino_i"}
    assert found["dino_i"][0] == pytest.approx((1 + against_source) / 2, abs=1e-6)


# The structure, written out: 224 pixels, the last layer's keys, cosines of all pairs of tokens.


def keys_of(model: Any, pixels: Any, layer: int) -> Any:
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    kept: list[Any] = []
    key = [m for name, m in model.named_modules() if name.endswith("k_proj")][layer]
    hook = key.register_forward_hook(lambda _m, _i, out: kept.append(out))
    more = {"interpolate_pos_encoding": True} if model.config.model_type == "vit" else {}
    with torch.no_grad():
        model(pixel_values=((pixels - mean) / std)[None], **more)
    hook.remove()
    return torch.nn.functional.normalize(kept[0][0].double(), dim=-1)


def apart(
    model: Any, edited: Array, source: Array, *, layer: int = 1, top: float = 1.0, size: Any = 224
) -> Array:
    from torchvision.transforms import Resize

    cosines = []
    for image in (edited, source):
        x = torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255 * top
        x = Resize(224, max_size=480, antialias=True)(x)
        keys = keys_of(model, x, layer)
        cosines.append(keys @ keys.T)
    found: Array = ((cosines[0] - cosines[1]) ** 2).numpy()
    return found


def patches_inside(mask: Array) -> Array:
    large = torch.nn.functional.interpolate(
        torch.from_numpy(mask > 0)[None, None].float(), size=(224, 224), mode="bilinear",
        antialias=True,
    )  # fmt: skip
    shares = large[0, 0].numpy().reshape(14, PATCH, 14, PATCH).mean(axis=(1, 3))
    return shares.ravel() >= 0.5


@pytest.mark.parametrize("layer", [0, 1])
def test_structure_distance_by_its_definition(case: Any, layer: int) -> None:
    name, model = case
    expected = apart(model, EDITED, SOURCE, layer=layer)
    found = scored([edit()], f"structure_distance:layer={layer}", name)
    assert expected.mean() > 1e-4
    assert found["structure_distance"][0] == pytest.approx(expected.mean(), rel=1e-4)
    patches, inside = expected[-196:, -196:], patches_inside(MASK)
    assert 20 < inside.sum() < 100
    for part, where in (("modification", inside), ("preservation", ~inside)):
        mean = patches[where][:, where].mean()
        assert found[f"structure_distance.{part}"][0] == pytest.approx(mean, rel=1e-4)


def test_the_number_of_tokens_is_that_of_dino(vit: str) -> None:
    backbone = get_handle(vit).model()
    distances, grid = backbone._apart(EDITED, SOURCE, 1, 1.0)
    assert grid == (14, 14)
    assert tuple(distances.shape) == (197, 197)


@pytest.mark.parametrize(("width", "height"), [(64, 40), (40, 64), (120, 30)])
def test_other_shapes_keep_their_proportions(vit: str, width: int, height: int) -> None:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(vit.removeprefix("hf:")).eval()
    a, b = (np.asarray(picture(i, width, height)) for i in (1, 2))
    expected = apart(model, a, b).mean()
    found = scored([edit(image=a, source_image=b, mask=None)], "structure_distance:layer=1", vit)
    assert found["structure_distance"][0] == pytest.approx(expected, rel=1e-4)


def test_pie_compat_has_values_up_to_255_and_black_elsewhere(vit: str) -> None:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(vit.removeprefix("hf:")).eval()
    found = scored([edit()], "structure_distance:layer=1,pie_compat=true", vit)
    inside = MASK > 0
    inside[[0, -1]] = True
    inside[:, [0, -1]] = True
    for part, kept in (("", np.ones_like(inside)), (".modification", inside),
                       (".preservation", ~inside)):  # fmt: skip
        masked = [image * kept[:, :, None] for image in (EDITED, SOURCE)]
        expected = apart(model, *masked, top=255.0).mean()
        assert found[f"structure_distance{part}"][0] == pytest.approx(expected, rel=1e-3)
    plain = scored([edit()], "structure_distance:layer=1", vit)
    assert plain["structure_distance"][0] != pytest.approx(found["structure_distance"][0], rel=0.01)


@pytest.mark.parametrize("metric", ["dino_i", "structure_distance:layer=1"])
def test_neither_batch_size_nor_order_matters(vit: str, metric: str) -> None:
    samples = [edit(str(i), image=np.asarray(picture(20 + i, 64, 64))) for i in range(3)]
    expected = scored(samples, metric, vit)
    for size in (1, 2):
        found = scored(samples[::-1], metric, vit, batch_size=size)
        for name, values in expected.items():
            np.testing.assert_allclose(found[name][::-1], values, rtol=1e-5, atol=1e-6)


def test_only_the_distance_is_cached(vit: str, tmp_path: Path) -> None:
    options = RunOptions(cache=tmp_path, device="cpu")
    first = score_samples([edit()], ["structure_distance:layer=1"], backbone=vit, options=options)
    assert sum(p.stat().st_size for p in tmp_path.iterdir()) < 200_000
    again = score_samples([edit()], ["structure_distance:layer=1"], backbone=vit, options=options)
    assert again.frame["value"].tolist() == first.frame["value"].tolist()
    assert again.run["counts"]["features_computed"] == 0


def test_rows_that_cannot_be_compared(vit: str) -> None:
    samples = [
        edit("0"),
        edit("1", source_image=None),
        edit("2", image=EDITED[:32]),
        edit("3", mask=np.full_like(MASK, 128)),
        edit("4", image=SOURCE),
        edit("5", mask=np.pad(np.full((4, 4), 255, np.uint8), ((0, 60), (0, 60)))),
    ]
    found = scored(samples, "structure_distance:layer=1", vit)
    values, inside = found["structure_distance"], found["structure_distance.modification"]
    assert values[1] == ("missing_input", "the row has no source image")
    assert values[2] == ("invalid_image", "the edited image has 64 x 32 pixels, its source 64 x 64")
    assert values[3] == values[0]
    assert "neither black nor white" in inside[3][1]
    assert values[4] == pytest.approx(0, abs=1e-9)
    assert inside[5] == ("undefined", "fewer than two patches lie inside the mask")
    resized = scored([samples[2]], "structure_distance:layer=1,sizes=resize", vit)
    assert isinstance(resized["structure_distance"][0], float)


def test_a_layer_that_is_not_there_is_a_usage_error(vit: str) -> None:
    with pytest.raises(UsageError, match="layers 0 to 1, and no layer 11"):
        scored([edit()], "structure_distance", vit)
    with pytest.raises(UsageError, match="count from 0"):
        scored([edit()], "structure_distance:layer=-1", vit)


def test_it_reads_no_text(vit: str) -> None:
    with pytest.raises(UsageError, match="sees images alone"):
        get_handle(vit).model().extract(text_embedding(vit), ["a text"])
    with pytest.raises(UsageError, match="sees images alone"):
        scored([edit()], "clipscore", vit)


def test_a_broken_image_costs_its_own_row(vit: str) -> None:
    found = scored([edit("0"), edit("1", image=b"no image")], "dino_i", vit)
    assert isinstance(found["dino_i"][0], float)
    assert found["dino_i"][1][0] == "unreadable_image"


def test_another_backbone_says_that_it_has_no_structure(tiny_clip: str) -> None:
    with pytest.raises((UsageError, InputError), match="structure"):
        scored([edit()], "structure_distance:layer=1", tiny_clip)
