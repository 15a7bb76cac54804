"""Distances of edits: by hand, against the libraries, and with everything that can be wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import picture

from scorekit.backbones.handle import get_handle, unload_backbones
from scorekit.backbones.pixels_lpips import SMALLEST
from scorekit.masks import region_of
from scorekit.metrics._edits import CHANGE
from scorekit.registry import load_metric
from scorekit.run import RunOptions, score_samples
from scorekit.types import Array, InputError, Sample, UsageError

RGB = ("mse", "l1", "psnr", "ssim")


def noisy(image: Array, seed: int = 0) -> Array:
    noise = np.random.default_rng(seed).normal(0, 20, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


SOURCE = np.asarray(picture(3, 48, 40))
EDITED = noisy(SOURCE)
MASK = np.zeros((40, 48), np.uint8)
MASK[8:30, 10:40] = 255
INSIDE = MASK > 0


def edit(item: str = "0", **changed: Any) -> Sample:
    given = {"image": EDITED, "source_image": SOURCE, "mask": MASK, **changed}
    return Sample(item, "s", "a text", given.pop("image"), **given)


def scored(samples: list[Sample], *metrics: Any, **options: Any) -> dict[str, list[Any]]:
    """Values by column; the status and note where there is none."""
    table = score_samples(samples, list(metrics), options=RunOptions(cache=False, **options))
    columns: dict[str, list[Any]] = {}
    for row in table.frame.itertuples():
        ok = row.status == "ok"
        columns.setdefault(row.metric, []).append(row.value if ok else (row.status, row.note))
    return columns


def squared(edited: Array = EDITED, source: Array = SOURCE) -> Array:
    return (edited / 255 - source / 255) ** 2


# By hand and against the libraries.


def test_mse_and_l1_by_hand() -> None:
    found = scored([edit()], "mse", "l1")
    assert found["mse"][0] == pytest.approx(squared().mean(), rel=1e-12)
    assert found["mse.modification"][0] == pytest.approx(squared()[INSIDE].mean(), rel=1e-12)
    assert found["mse.preservation"][0] == pytest.approx(squared()[~INSIDE].mean(), rel=1e-12)
    absolute = np.abs(EDITED / 255 - SOURCE / 255)
    assert found["l1"][0] == pytest.approx(absolute.mean(), rel=1e-12)
    assert found["l1.modification"][0] == pytest.approx(absolute[INSIDE].mean(), rel=1e-12)
    assert found["l1.preservation"][0] == pytest.approx(absolute[~INSIDE].mean(), rel=1e-12)


def test_locality_is_the_share_of_the_change_inside() -> None:
    share = squared()[INSIDE].sum() / squared().sum()
    for metric in RGB:
        assert scored([edit()], metric)[f"{metric}.locality"][0] == pytest.approx(share, rel=1e-12)


def test_an_edit_that_stays_inside_its_mask_has_a_locality_of_one() -> None:
    edited = np.where(INSIDE[:, :, None], EDITED, SOURCE)
    found = scored([edit(image=edited)], "mse", "psnr")
    assert found["mse.locality"] == [1.0]
    assert found["mse.preservation"] == [0.0]
    assert found["psnr.preservation"][0][0] == "undefined"
    assert "infinite" in found["psnr.preservation"][0][1]
    assert isinstance(found["psnr"][0], float)


def test_psnr_is_scikit_image_s() -> None:
    from skimage.metrics import peak_signal_noise_ratio

    expected = peak_signal_noise_ratio(SOURCE / 255, EDITED / 255, data_range=1.0)
    found = scored([edit()], "psnr")
    assert found["psnr"][0] == pytest.approx(expected, abs=1e-10)
    inside = -10 * np.log10(squared()[INSIDE].mean())
    assert found["psnr.modification"][0] == pytest.approx(inside, abs=1e-10)
    assert scored([edit()], "psnr:region=inside")["psnr"] == found["psnr.modification"]


@pytest.mark.parametrize("sigma", [1.5, 0.8])
def test_ssim_is_torchmetrics_where_the_window_fits(sigma: float) -> None:
    from torchmetrics.functional.image import structural_similarity_index_measure

    both = [torch.from_numpy(x / 255).permute(2, 0, 1)[None] for x in (EDITED, SOURCE)]
    _, full = structural_similarity_index_measure(
        *both, sigma=sigma, data_range=1.0, return_full_image=True
    )
    radius = int(3.5 * sigma + 0.5)
    valid = full[0].mean(dim=0).numpy()[radius:-radius, radius:-radius]
    where = INSIDE[radius:-radius, radius:-radius]
    found = scored([edit()], f"ssim:sigma={sigma}")
    assert found["ssim"][0] == pytest.approx(valid.mean(), abs=1e-8)
    assert found["ssim.modification"][0] == pytest.approx(valid[where].mean(), abs=1e-8)
    assert found["ssim.preservation"][0] == pytest.approx(valid[~where].mean(), abs=1e-8)


def test_ssim_of_the_whole_is_scikit_image_s_own_number() -> None:
    from skimage.metrics import structural_similarity

    expected = structural_similarity(
        SOURCE / 255, EDITED / 255, data_range=1.0, channel_axis=2, gaussian_weights=True,
        sigma=1.5, use_sample_covariance=False,
    )  # fmt: skip
    assert scored([edit()], "ssim")["ssim"][0] == pytest.approx(expected, abs=1e-12)


def test_pie_compat_by_hand() -> None:
    inside = INSIDE.copy()
    inside[[0, -1]] = True
    inside[:, [0, -1]] = True
    found = scored([edit()], "mse:pie_compat=true", "psnr:pie_compat=true,region=outside")
    assert found["mse"][0] == pytest.approx(squared().mean(), rel=1e-12)
    modified = (squared() * inside[:, :, None]).mean()
    kept = (squared() * ~inside[:, :, None]).mean()
    assert found["mse.modification"][0] == pytest.approx(modified, rel=1e-12)
    assert found["mse.preservation"][0] == pytest.approx(kept, rel=1e-12)
    assert modified + kept == pytest.approx(squared().mean())
    assert found["psnr"][0] == pytest.approx(-10 * np.log10(kept), abs=1e-10)


def test_ssim_with_pie_compat_is_that_of_masked_images() -> None:
    from skimage.metrics import structural_similarity

    outside = ~INSIDE
    outside[[0, -1]] = False
    outside[:, [0, -1]] = False
    a, b = (x / 255 * outside[:, :, None] for x in (SOURCE, EDITED))
    expected = structural_similarity(
        a, b, data_range=1.0, channel_axis=2, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False,
    )  # fmt: skip
    found = scored([edit()], "ssim:pie_compat=true")
    assert found["ssim.preservation"][0] == pytest.approx(expected, abs=1e-9)


# The rules that hold for all.


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_neither_batch_size_nor_order_matters(batch_size: int) -> None:
    samples = [edit(str(i), image=noisy(SOURCE, seed=i)) for i in range(5)]
    expected = scored(samples, *RGB)
    found = scored(samples[::-1], *RGB, batch_size=batch_size)
    assert {name: values[::-1] for name, values in found.items()} == expected


def test_what_changes_a_number_is_in_the_signature() -> None:
    table = score_samples([edit()], ["ssim:sigma=1,region=inside"], options=RunOptions(cache=False))
    signature = str(table.signatures["ssim"])
    assert "bb:pixels/rgb" in signature
    assert "region:inside|sizes:equal|pie_compat:False|sigma:1|v:1" in signature
    assert "locality:share of squared RGB change" in str(table.signatures["ssim.locality"])


def test_an_edit_is_decoded_once_and_then_never_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = {}
    for name, pixels in (("image", noisy(SOURCE, 77)), ("source_image", SOURCE), ("mask", MASK)):
        paths[name] = tmp_path / f"{name}.png"
        Image.fromarray(pixels).save(paths[name])
    from scorekit.backbones import pixels_read

    decoded = []
    real = pixels_read.decode
    monkeypatch.setattr(pixels_read, "decode", lambda data: decoded.append(len(data)) or real(data))
    monkeypatch.setattr(pixels_read, "_kept", pixels_read._Kept())
    options = RunOptions(cache=tmp_path / "cache")
    first = score_samples([edit(**paths)], list(RGB), options=options)
    assert len(decoded) == 3
    monkeypatch.setattr(pixels_read, "_kept", pixels_read._Kept())
    again = score_samples([edit(**paths)], list(RGB), options=options)
    assert len(decoded) == 3
    assert again.frame["value"].tolist() == first.frame["value"].tolist()
    Image.fromarray(noisy(SOURCE, 78)).save(paths["image"])
    other = score_samples([edit(**paths)], ["mse"], options=options)
    assert other.scores("mse")[0] != first.scores("mse")[0]


def test_what_is_kept_in_memory_is_not_the_callers_own() -> None:
    source, other = (np.asarray(picture(k, 48, 40)) for k in (21, 22))
    buffer = source.copy()
    scored([edit(image=EDITED, source_image=buffer)], "mse")
    buffer[:] = 0  # the next frame of a loop that has one buffer
    found = scored([edit(image=other, source_image=source)], "mse")
    assert found["mse"][0] == pytest.approx(squared(other, source).mean())


def test_what_is_kept_in_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    from scorekit.backbones import pixels_read

    monkeypatch.setattr(pixels_read, "KEPT_BYTES", 100)
    kept = pixels_read._Kept()
    for i in range(5):
        kept.put(str(i), np.zeros(40, np.uint8))
    assert [kept.get(str(i)) is not None for i in range(5)] == [False, False, False, True, True]


def test_the_rgb_family_needs_no_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys, numpy as np; from scorekit.types import Sample, Feature\n"
        "from scorekit.backbones.handle import get_handle\n"
        "s = Sample('i', 's', 't', np.zeros((16, 16), np.uint8), "
        "source_image=np.ones((16, 16), np.uint8))\n"
        "h = get_handle('pixels:rgb').model()\n"
        "f = Feature('ssim', 'pixels:rgb', 'sample', (('sigma', 1.5),))\n"
        "assert 0 < h.extract(f, [s])[0].info['ssim']['whole'] < 1\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# What can be wrong.


def spoiled(**changed: Any) -> dict[str, list[Any]]:
    """One row that is not as it should be, beside a sound one."""
    found = scored([edit("0", **changed), edit("1")], *RGB)
    assert all(isinstance(values[1], float) for values in found.values())
    return {name: values[0] for name, values in found.items()}


@pytest.mark.parametrize(
    ("mask", "why"),
    [
        (None, "the row has no mask"),
        (np.zeros((20, 48), np.uint8), "the mask has 48 x 20 pixels, the image 48 x 40"),
        (np.zeros_like(MASK), "all black"),
        (np.full_like(MASK, 255), "all white"),
        (MASK // 255, "0 and 1, not 0 and 255"),
        (
            np.where(INSIDE, 128, 0).astype(np.uint8),
            "neither black nor white at 660 of its 1,920 pixels (x=10, y=8: 128/",
        ),
        ("no-such.png", "mask: no file no-such.png"),
    ],
)
def test_without_a_usable_mask_the_headline_still_stands(mask: Any, why: str) -> None:
    row = spoiled(mask=mask)
    for metric in RGB:
        assert isinstance(row[metric], float), row
        for part in ("modification", "preservation", "locality"):
            status, note = row[f"{metric}.{part}"]
            assert status == "undefined"
            assert why in note


def test_a_region_without_a_mask_is_no_score() -> None:
    for region in ("inside", "outside"):
        ((status, note),) = scored([edit(mask=None)], f"l1:region={region}")["l1"]
        assert (status, note) == ("undefined", "the row has no mask")


@pytest.mark.parametrize(
    ("changed", "status", "why"),
    [
        ({"source_image": None}, "missing_input", "no source image"),
        ({"image": None}, "missing_image", "no image"),
        ({"source_image": "gone.png"}, "missing_image", "gone.png"),
        ({"source_image": b"not an image"}, "unreadable_image", "source image: not an image"),
        ({"source_image": SOURCE[:20]}, "invalid_image", "48 x 40 pixels, its source 48 x 20"),
    ],
)
def test_a_row_that_cannot_be_compared(changed: dict[str, Any], status: str, why: str) -> None:
    row = spoiled(**changed)
    for metric in RGB:
        assert row[metric][0] == status
        assert why in row[metric][1]


def test_sizes_that_differ_may_be_resized() -> None:
    large = np.asarray(Image.fromarray(EDITED).resize((96, 80), Image.Resampling.BICUBIC))
    back = np.asarray(Image.fromarray(large).resize((48, 40), Image.Resampling.BICUBIC))
    found = scored([edit(image=large)], "mse:sizes=resize")
    assert found["mse"][0] == pytest.approx(squared(back).mean(), rel=1e-12)


def test_an_unedited_copy() -> None:
    row = spoiled(image=SOURCE)
    assert (row["mse"], row["l1"], row["ssim"]) == (0.0, 0.0, pytest.approx(1.0))
    assert row["psnr"][0] == "undefined" and "infinite" in row["psnr"][1]
    assert "identical to its source" in row["mse.locality"][1]


def test_an_image_smaller_than_the_window_has_no_ssim() -> None:
    small = edit(image=EDITED[:10], source_image=SOURCE[:10], mask=None)
    ((status, note),) = scored([small], "ssim")["ssim"]
    assert status == "invalid_image"
    assert "11 on a side" in note


def test_a_mask_at_the_edge_alone_has_no_ssim_inside() -> None:
    mask = np.zeros_like(MASK)
    mask[:3] = 255
    found = scored([edit(mask=mask)], "ssim")
    assert isinstance(found["ssim.preservation"][0], float)
    assert "too near to the edge" in found["ssim.modification"][0][1]


@pytest.mark.parametrize(
    "text", ["ssim:sigma=0", "ssim:sigma=-1", "ssim:region=left", "mse:sizes=x"]
)
def test_wrong_parameters_are_usage_errors(text: str) -> None:
    with pytest.raises(UsageError):
        scored([edit()], text)


def test_an_unknown_member_of_the_family_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="there are rgb, lpips-alex"):
        get_handle("pixels:hsv").model()


def test_the_values_of_a_mask_may_be_a_little_off() -> None:
    pixels = np.repeat(np.where(INSIDE, 248, 7).astype(np.uint8)[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(region_of(pixels, (40, 48)), INSIDE)
    pixels[20, 20] = 246
    with pytest.raises(InputError, match="neither black nor white"):
        region_of(pixels, (40, 48))


def test_a_mask_saved_as_jpeg_at_full_quality(tmp_path: Path) -> None:
    blocks = np.kron(np.eye(4, 5, dtype=np.uint8), np.full((8, 8), 255, np.uint8))
    Image.fromarray(blocks).save(tmp_path / "mask.jpg", quality=95)
    pixels = np.asarray(Image.open(tmp_path / "mask.jpg").convert("RGB"))
    np.testing.assert_array_equal(region_of(pixels, (32, 40)), blocks > 0)


def test_the_change_needs_a_mask() -> None:
    model = get_handle("pixels:rgb").model()
    with pytest.raises(InputError, match="no mask"):
        model.content_of(CHANGE, edit(mask=None))


# LPIPS, with a random trunk and the real heads.

BIG = np.asarray(picture(5, 72, 64))
BIG_EDITED = noisy(BIG, 5)
BIG_MASK = np.kron(MASK[::5, ::4] > 0, np.ones((8, 6), bool)).astype(np.uint8) * 255
TRUNKS = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}


every_net = pytest.mark.parametrize("trunk", ["alex", "vgg", "squeeze"], indirect=True)
squeezenet = pytest.mark.parametrize("trunk", ["squeeze"], indirect=True)


@pytest.fixture(scope="module")
def trunk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A network's name, a torchvision state dict of random weights, and its reference."""
    from torchmetrics.functional.image import lpips

    torch.manual_seed(0)
    reference = lpips._LPIPS(net=request.param, pnet_rand=True)
    state = {}
    for name, value in reference.net.state_dict().items():
        rest = name.split(".", 2 if name.startswith("slices") else 1)[-1]
        state[f"features.{rest}"] = value
    path = tmp_path_factory.mktemp("trunk") / f"{TRUNKS[request.param]}.pth"
    torch.save(state, path)
    return request.param, path, reference


def big(item: str = "0", **changed: Any) -> Sample:
    defaults = {"image": BIG_EDITED, "source_image": BIG, "mask": BIG_MASK}
    return edit(item, **{**defaults, **changed})


def reference_lpips(model: Any, edited: Array, source: Array) -> float:
    from torchmetrics.functional.image.lpips import _lpips_update

    both = [torch.from_numpy(x / 255).float().permute(2, 0, 1)[None] for x in (edited, source)]
    return float(_lpips_update(*both, model, normalize=True))


@every_net
def test_lpips_is_torchmetrics_own(trunk: Any) -> None:
    net, path, model = trunk
    found = scored([big()], f"lpips:net={net},weights={path}", device="cpu")
    assert found["lpips"][0] == pytest.approx(reference_lpips(model, BIG_EDITED, BIG), abs=1e-6)
    assert found["lpips"][0] > 1e-3
    model.spatial = True
    try:
        both = [torch.from_numpy(x / 255).float().permute(2, 0, 1)[None] for x in (BIG_EDITED, BIG)]
        spatial = model(*both, normalize=True)[0, 0].numpy()
    finally:
        model.spatial = False
    inside = BIG_MASK > 0
    assert found["lpips.modification"][0] == pytest.approx(spatial[inside].mean(), abs=1e-6)
    assert found["lpips.preservation"][0] == pytest.approx(spatial[~inside].mean(), abs=1e-6)


@squeezenet
def test_lpips_has_batches_of_one_size_each(trunk: Any) -> None:
    net, path, _ = trunk
    metric = f"lpips:net={net},weights={path}"
    samples = [
        big("0"),
        big("1", image=BIG_EDITED[:40], source_image=BIG[:40], mask=None),
        big("2", image=noisy(BIG, 9)),
        big("3", image=BIG_EDITED[:12], source_image=BIG[:12], mask=None),
        big("4", image=BIG),
    ]
    whole = scored(samples, metric, device="cpu")["lpips"]
    assert whole[3][0] == "invalid_image"
    assert "72 x 12 pixels" in whole[3][1]
    assert whole[4] == pytest.approx(0, abs=1e-9)
    for size in (1, 2):
        other = scored(samples[::-1], metric, device="cpu", batch_size=size)["lpips"][::-1]
        assert other[3] == whole[3]
        for row in (0, 1, 2, 4):
            assert other[row] == pytest.approx(whole[row], abs=1e-6)


@pytest.mark.parametrize("net", ["alex", "vgg", "squeeze"])
def test_the_smallest_image_of_lpips(net: str) -> None:
    from torchmetrics.functional.image import lpips

    with torch.device("meta"):
        trunk = lpips._LPIPS(net=net, pnet_rand=True, pretrained=False).net
    side = SMALLEST[net]
    trunk(torch.empty(1, 3, side, side, device="meta"))
    with pytest.raises(RuntimeError, match="too small"):
        trunk(torch.empty(1, 3, side - 1, side - 1, device="meta"))


def test_pie_compat_wants_the_squeezenet() -> None:
    with pytest.raises(UsageError, match="add net=squeeze"):
        load_metric("lpips")(pie_compat=True)


@squeezenet
def test_the_signature_has_the_hash_of_the_weights_and_no_path(trunk: Any) -> None:
    net, path, _ = trunk
    metric = load_metric("lpips")(net=net, weights=str(path))
    table = score_samples([big()], [metric], options=RunOptions(cache=False, device="cpu"))
    signature = str(table.signatures["lpips"])
    assert f"bb:pixels/lpips-{net}/{path.name}|w:" in signature
    assert str(path.parent) not in signature


@squeezenet
def test_pie_compat_is_the_squeezenet_of_masked_images(trunk: Any) -> None:
    _, path, model = trunk
    inside = BIG_MASK > 0
    inside[[0, -1]] = True
    inside[:, [0, -1]] = True
    samples = [big("0"), big("1", mask=None)]
    found = scored(samples, f"lpips:net=squeeze,weights={path},pie_compat=true", device="cpu")
    for part, kept in (("modification", inside), ("preservation", ~inside)):
        masked = [x * kept[:, :, None] for x in (BIG_EDITED, BIG)]
        expected = reference_lpips(model, *masked)
        assert found[f"lpips.{part}"][0] == pytest.approx(expected, abs=1e-6)
        assert found[f"lpips.{part}"][1] == ("undefined", "the row has no mask")
    assert found["lpips"][1] == pytest.approx(found["lpips"][0], abs=1e-6)


@squeezenet
def test_the_weights_of_another_network_are_refused(trunk: Any, tmp_path: Path) -> None:
    net, path, _ = trunk
    with pytest.raises(UsageError, match="not this network's state dict: it lacks features"):
        scored([big()], f"lpips:net=alex,weights={path}", device="cpu")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(UsageError, match="can't load"):
        scored([big()], f"lpips:net={net},weights={tmp_path / 'text.pth'}", device="cpu")


def test_no_such_weights_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no file .*gone\.pth"):
        scored([big()], f"lpips:weights={tmp_path / 'gone.pth'}", device="cpu")


def test_offline_lpips_says_what_it_lacks_before_any_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import urllib.request

    def no_network(*args: Any, **kwargs: Any) -> None:
        raise OSError("no route")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    unload_backbones()
    with pytest.raises(UsageError, match=r"torchvision's alexnet.*\.pth.*no route.*weights=FILE"):
        scored([big()], "lpips", device="cpu")
