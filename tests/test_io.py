"""Folders, prompt tables and Python values as samples; findings; what must be one clear line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scorekit.io import read_samples, samples_from
from scorekit.prompts import read_table
from scorekit.types import UsageError

REAL = Path(__file__).parents[1] / ".." / "shared" / "data" / "images"


def put(root, *names):
    """Empty files by name; a listing opens no image."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def write(path, text, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding) if isinstance(text, str) else text)
    return path


def keys(listing):
    return [(s.system, s.item, s.index) for s in listing.samples]


def texts(listing):
    return [s.text for s in listing.samples]


def kinds(listing):
    return [f.kind for f in listing.findings]


def error_of(*args, **options):
    with pytest.raises(UsageError) as caught:
        read_samples(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_sources_and_masks_in_the_folder_are_no_rows(tmp_path):
    put(tmp_path, "edit/a.png", "src/a.png", "mask/a.png", "refs/1.png", "refs/2.png", "edit/b.png")
    head = "image,source_image,mask,reference_images,text\n"
    line = 'edit/a.png,./src/a.png,mask/a.png,"[""refs/1.png"", ""refs/2.png""]",a cat\n'
    write(tmp_path / "prompts.csv", head + line)
    listing = read_samples(tmp_path)
    assert [Path(s.image).name for s in listing.samples] == ["a.png", "b.png"]
    assert texts(listing) == ["a cat", None]
    # A source that is an image of its own keeps its row.
    write(tmp_path / "prompts.csv", head + line + "src/a.png,,,,a dog\n")
    assert texts(read_samples(tmp_path)) == ["a cat", "a dog", None]
    (tmp_path / "prompts.csv").rename(tmp_path / "metadata.csv")
    assert texts(read_samples(tmp_path)) == ["a cat", "a dog", None]


# Tables


def test_table_of_images(tmp_path):
    put(tmp_path, "a.png", "b.png")
    table = write(tmp_path / "t.csv", 'image,text\na.png,"a cat, sitting"\nb.png,a dog\n')
    listing = read_samples(table)
    assert texts(listing) == ["a cat, sitting", "a dog"]
    assert keys(listing) == [(tmp_path.name, "a", 0), (tmp_path.name, "b", 0)]
    assert listing.samples[0].image == str(tmp_path / "a.png")
    assert listing.findings == []


def test_all_columns(tmp_path):
    put(tmp_path, *(f"{n}.png" for n in "abcde"))
    row = {
        "image": "a.png",
        "text": "t",
        "item": 7,
        "system": "s",
        "source_image": "b.png",
        "source_text": "before",
        "references": ["one", "two"],
        "reference_images": ["c.png", "d.png"],
        "mask": "e.png",
        "index": 3,
        "category": "x",
    }
    (sample,) = read_samples(write(tmp_path / "t.jsonl", json.dumps(row))).samples
    assert (sample.item, sample.system, sample.index) == ("7", "s", 3)
    assert sample.source_image == str(tmp_path / "b.png")
    assert sample.source_text == "before"
    assert sample.references == ("one", "two")
    assert sample.reference_images == (str(tmp_path / "c.png"), str(tmp_path / "d.png"))
    assert sample.mask == str(tmp_path / "e.png")
    assert sample.meta == {"category": "x"}


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("one", ("one",)),
        ("one, two|||three", ("one, two|||three",)),
        ('["one", "two"]', ("one", "two")),
        ("[]", ()),
        ("", ()),
    ],
)
def test_references_are_a_json_list_or_one_text(tmp_path, cell, expected):
    quoted = '"' + cell.replace('"', '""') + '"'
    put(tmp_path, "a.png")
    table = write(tmp_path / "t.csv", f"image,text,references\na.png,t,{quoted}\n")
    assert read_samples(table).samples[0].references == expected


def test_references_that_look_like_json_but_are_not(tmp_path):
    table = write(tmp_path / "t.tsv", "image\ttext\treferences\na.png\tt\t[one]\n")
    assert "line 2: references starts with '['" in error_of(table)


@pytest.mark.parametrize("text", ["NA", "null", "None", "nan", "123", "1.50", "true", " x "])
def test_texts_stay_as_they_are(tmp_path, text):
    put(tmp_path, "a.png")
    table = write(tmp_path / "t.csv", f"image,text,item\na.png,{text},{text}\n")
    (sample,) = read_samples(table).samples
    assert (sample.text, sample.item) == (text, text)


def test_empty_cells_are_none(tmp_path):
    put(tmp_path, "a.png")
    listing = read_samples(write(tmp_path / "t.csv", "image,text,system,x\na.png,,,\n"))
    assert texts(listing) == [None]
    assert listing.samples[0].system == tmp_path.name
    assert listing.samples[0].meta == {"x": None}
    assert kinds(listing) == ["missing_text"]


def test_bom_crlf_and_quoted_newlines(tmp_path):
    put(tmp_path, "a.png")
    data = b'\xef\xbb\xbfimage,text\r\na.png,"two\r\nlines"\r\n\r\n'
    assert texts(read_samples(write(tmp_path / "t.csv", data))) == ["two\r\nlines"]


@pytest.mark.parametrize("name", ["file_name", "image_path", "path"])
def test_aliases(tmp_path, name):
    put(tmp_path, "a.png")
    table = write(tmp_path / "t.csv", f"{name},caption\na.png,t\n")
    assert texts(read_samples(table)) == ["t"]


def test_an_alias_beside_the_standard_name_is_meta(tmp_path):
    put(tmp_path, "a.png")
    table = write(tmp_path / "t.csv", "image,text,prompt,path\na.png,t,p,q\n")
    (sample,) = read_samples(table).samples
    assert (sample.text, sample.meta) == ("t", {"prompt": "p", "path": "q"})


def test_unnamed_column_of_pandas_is_dropped(tmp_path):
    put(tmp_path, "a.png")
    (sample,) = read_samples(write(tmp_path / "t.csv", ",image,text\n0,a.png,t\n")).samples
    assert sample.meta == {}


def test_system_and_item_from_the_path(tmp_path):
    put(tmp_path, "sdxl/x/0.png")
    table = write(tmp_path / "t.csv", "image,text\nsdxl/x/0.png,t\n")
    assert keys(read_samples(table)) == [("sdxl", "x/0", 0)]


def test_item_where_the_system_column_is_the_folder_or_not(tmp_path):
    put(tmp_path, "sdxl/0.png", "images/1.png")
    table = write(
        tmp_path / "t.csv", "image,text,system\nsdxl/0.png,t,sdxl\nimages/1.png,u,dalle\n"
    )
    assert keys(read_samples(table)) == [("sdxl", "0", 0), ("dalle", "images/1", 0)]


def test_paths_outside_the_folder(tmp_path):
    put(tmp_path, "other/a.png", "in/x")
    absolute = tmp_path / "other" / "a.png"
    table = write(tmp_path / "in" / "t.csv", f"image,text\n../other/a.png,t\n{absolute},u\n")
    listing = read_samples(table)
    assert [s.system for s in listing.samples] == ["other", "other"]
    assert all(Path(s.image).exists() for s in listing.samples)


def test_missing_image_keeps_its_row(tmp_path):
    put(tmp_path, "a.png")
    listing = read_samples(write(tmp_path / "t.csv", "image,text\na.png,t\nb.png,u\n,v\n"))
    assert len(listing.samples) == 3
    assert listing.samples[2].image is None
    assert listing.lines() == [
        f"2 rows of {tmp_path / 't.csv'} have no image in {tmp_path}: b.png, line 4"
    ]


def test_duplicate_rows_are_kept_once(tmp_path):
    put(tmp_path, "a.png")
    listing = read_samples(write(tmp_path / "t.csv", "image,text\na.png,t\n./a.png,t\n"))
    assert len(listing.samples) == 1
    assert listing.lines() == ["1 row is a duplicate: a.png"]


def test_one_image_with_two_texts_is_no_duplicate(tmp_path):
    put(tmp_path, "a.png")
    listing = read_samples(write(tmp_path / "t.csv", "image,text\na.png,t\na.png,u\n"))
    assert [k[1:] for k in keys(listing)] == [("a", 0), ("a", 1)]
    assert kinds(listing) == ["conflicting_prompts"]


def test_several_images_of_an_item_are_numbered(tmp_path):
    put(tmp_path, "a.png", "b.png", "c.png")
    table = write(
        tmp_path / "t.csv",
        "image,text,item,system,index\na.png,t,1,s,\nb.png,t,1,s,0\nc.png,t,1,s,0\n",
    )
    listing = read_samples(table)
    assert [s.index for s in listing.samples] == [1, 0, 2]
    assert kinds(listing) == ["duplicate_index"]


def test_table_without_texts_for_image_metrics(tmp_path):
    put(tmp_path, "a.png", "b.png")
    listing = read_samples(write(tmp_path / "t.csv", "image,source_image\na.png,b.png\n"))
    assert texts(listing) == [None]
    assert listing.findings == []


def test_text_option_fills_a_table_without_texts(tmp_path):
    put(tmp_path, "a.png")
    table = write(tmp_path / "t.csv", "image,references\na.png,r\n")
    assert texts(read_samples(table, text="x")) == ["x"]


def test_options_that_contradict_a_table(tmp_path):
    table = write(tmp_path / "t.csv", "image,text,system\na.png,t,s\n")
    assert "leave out --text" in error_of(table, text="x")
    assert "leave out --system" in error_of(table, system="x")
    assert "is a table" in error_of(table, prompts=table)
    assert "not both" in error_of(tmp_path, prompts=table, text="x")


# Parquet


def parquet(path, columns, **options):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path, **options)
    return path


def test_parquet(tmp_path):
    put(tmp_path, "a.png", "b.png")
    table = parquet(
        tmp_path / "t.parquet",
        {
            "image": ["a.png", "b.png"],
            "text": ["NA", None],
            "item": [1.0, 2.0],
            "references": [["x", "y"], None],
        },
    )
    listing = read_samples(table)
    assert texts(listing) == ["NA", None]
    assert [s.item for s in listing.samples] == ["1", "2"]
    assert [s.references for s in listing.samples] == [("x", "y"), ()]


def test_parquet_with_embedded_images(tmp_path):
    put(tmp_path, "b.png")
    table = parquet(
        tmp_path / "t.parquet",
        {
            "image": [{"bytes": b"abc", "path": "a.png"}, {"bytes": None, "path": "b.png"}],
            "text": ["t", "u"],
        },
    )
    listing = read_samples(table)
    assert [s.image for s in listing.samples] == [b"abc", str(tmp_path / "b.png")]
    assert [s.item for s in listing.samples] == ["0", "b"]
    assert listing.findings == []


def test_parquet_in_a_folder_named_like_a_partition(tmp_path):
    put(tmp_path, "x=1/a.png")
    table = parquet(tmp_path / "x=1" / "t.parquet", {"image": ["a.png"], "text": ["t"]})
    assert read_samples(table).samples[0].meta == {}


# Tables that can't be read


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("t.csv", b"", "is empty"),
        ("t.csv", b"\xef\xbb\xbf \n", "is empty"),
        ("t.csv", b"image,text\n", "has no rows"),
        ("t.csv", b"image,text\na.png,a cat, a dog\n", "line 2: 3 cells, but the header has 2"),
        ("t.csv", b'image,text\na.png,"x\ny"\nb.png\n', "line 4: 1 cells"),
        ("t.csv", b'image,text\na.png,"never closed\n', "line 2: unexpected end of data"),
        ("t.csv", b"image,text\na.png,caf\xe9\n", "line 2: not UTF-8 (byte 0xe9)"),
        ("t.csv", "image,text\na.png,t\n".encode("utf-16"), "is UTF-16"),
        ("t.csv", b"image,text\na.png,a\0b\n", "line 2: a NUL byte"),
        ("t.csv", b"image,text,text\na.png,t,u\n", "two columns named text"),
        ("t.csv", b"picture,words\na.png,t\n", "needs a column image (or file_name, image_path,"),
        ("t.csv", b"image;text\na.png;t\n", "separated by semicolons"),
        ("t.csv", b"image,words\na.png,t\n", "needs a column text (or prompt, caption)"),
        ("t.csv", b"image,text\nhttps://me:pass@x.org/a.png,t\n", "line 2: image is a URL"),
        ("t.csv", b"image,text,index\na.png,t,one\n", "line 2: index must be a whole number"),
        ("t.csv", b"image,text\na.png," + b"x" * 200_000 + b"\n", "line 2: field larger"),
        ("t.jsonl", b'{"image": "a.png", "text": "t"}\n{"image": \n', "line 2: not JSON"),
        ("t.jsonl", b'["a.png", "t"]\n', "line 1: not a JSON object"),
        ("t.jsonl", b'{"image": "a", "image": "b"}\n', "line 1: not JSON: two values for 'image'"),
        ("t.jsonl", b'{"image": "a.png", "text": ["t"]}\n', "line 1: text must be a text"),
        ("t.jsonl", b'{"image": 3.5, "text": "t"}\n', "line 1: image must be a path"),
        ("t.jsonl", b'{"image": "a.png", "text": "\\ud800"}\n', "half of a surrogate pair"),
        ("t.jsonl", b"[" * 200_000, "line 1: nested too deeply"),
        ("t.parquet", b"PAR1 and rubbish", "as Parquet"),
        ("t.parquet", b"", "as Parquet"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path, name, data, message):
    table = write(tmp_path / name, data)
    found = error_of(table)
    assert message in found
    assert str(table) in found


def test_any_bytes_give_a_listing_or_a_usage_error(tmp_path):
    hypothesis = pytest.importorskip("hypothesis")
    from hypothesis import strategies as st

    cells = st.one_of(
        st.text(max_size=6),
        st.sampled_from(["image", "text", "item", ",", '"', "\n", "\r", "\t", "[", "{}", "\0"]),
    )
    bodies = st.one_of(
        st.binary(max_size=60),
        st.lists(cells, max_size=12).map(lambda parts: "".join(parts).encode()),
        st.lists(cells, max_size=9).map(lambda parts: b"image,text\n" + "".join(parts).encode()),
        st.dictionaries(
            st.sampled_from(["image", "text", "item", "index", "references", "x"]),
            st.recursive(
                st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
                lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner),
                max_leaves=4,
            ),
        ).map(lambda row: json.dumps(row).encode()),
    )

    @hypothesis.settings(max_examples=300, deadline=None, derandomize=True, database=None)
    @hypothesis.given(bodies, st.sampled_from([".csv", ".tsv", ".jsonl", ".parquet"]))
    def check(body, suffix):
        path = write(tmp_path / f"t{suffix}", body)
        try:
            listing = read_samples(path)
        except UsageError as error:
            refusal = str(error)
        else:
            assert len(set(keys(listing))) == len(listing.samples) > 0
            return
        assert str(path) in refusal
        assert "\n" not in refusal

    check()


# Folders


def test_folder_with_sidecars(tmp_path):
    put(tmp_path, "b.PNG", "a.png", "c.jpg")
    write(tmp_path / "a.txt", "\ufeffa cat\n")
    write(tmp_path / "b.txt", "")
    listing = read_samples(tmp_path)
    assert texts(listing) == ["a cat", "", None]
    assert listing.lines() == ["1 image has no prompt: c.jpg"]


def test_sidecar_that_is_not_utf8(tmp_path):
    put(tmp_path, "a.png")
    write(tmp_path / "a.txt", b"caf\xe9")
    listing = read_samples(tmp_path)
    assert texts(listing) == [None]
    assert kinds(listing) == ["unreadable_sidecar", "missing_text"]


def test_what_a_folder_ignores(tmp_path):
    put(tmp_path, "a.png", ".b.png", ".git/c.png", "notes.md", "README.txt", "x.avif")
    listing = read_samples(tmp_path, text="t")
    assert keys(listing) == [(tmp_path.name, "a", 0)]
    assert listing.ignored == 2
    assert listing.lines() == ["1 image has a format that is not read: x.avif"]


def test_text_for_all_overrides_prompts(tmp_path):
    put(tmp_path, "a.png", "s/b.png")
    write(tmp_path / "a.txt", "other")
    write(tmp_path / "prompts.csv", "image,text\na.png,other\n")
    listing = read_samples(tmp_path, text="t")
    assert texts(listing) == ["t", "t"]


def test_order_does_not_depend_on_the_disk(tmp_path):
    put(tmp_path, "z/2.png", "a/10.png", "a/9.png", "m.png")
    names = [s.image for s in read_samples(tmp_path, text="t").samples]
    assert names == sorted(names)


def test_prompts_file_in_the_folder_names_images(tmp_path):
    put(tmp_path, "s/a.png", "s/b.png")
    write(tmp_path / "prompts.csv", "image,text\ns/a.png,t\ns/c.png,v\n")
    listing = read_samples(tmp_path)
    assert keys(listing) == [("s", "a", 0), ("s", "c", 0), ("s", "b", 0)]
    assert texts(listing) == ["t", "v", None]
    assert kinds(listing) == ["missing_image", "missing_text"]
    assert "prompts.csv" in listing.source


def test_prompts_elsewhere_are_relative_to_the_folder(tmp_path):
    put(tmp_path, "images/a.png")
    table = write(tmp_path / "elsewhere" / "p.tsv", "image\ttext\na.png\tt\n")
    listing = read_samples(tmp_path / "images", prompts=table)
    assert listing.samples[0].image == str(tmp_path / "images" / "a.png")
    assert listing.findings == []


def test_prompts_by_item(tmp_path):
    put(tmp_path, "sdxl/0.png", "sdxl/x/1.jpg", "dalle/0.png", "dalle/9.png")
    write(tmp_path / "prompts.csv", "item,text,kind\n0,zero,k\nx/1,one,l\n2,two,m\n")
    listing = read_samples(tmp_path)
    assert keys(listing) == [
        ("dalle", "0", 0),
        ("dalle", "9", 0),
        ("sdxl", "0", 0),
        ("sdxl", "x/1", 0),
    ]
    assert texts(listing) == ["zero", None, "zero", "one"]
    assert listing.samples[0].meta == {"kind": "k"}
    assert listing.lines() == [
        "1 prompt has no image: 2",
        "1 item lacks an image of some systems: x/1 (no dalle)",
        "1 image has no prompt: dalle/9.png",
    ]


def test_several_images_an_item(tmp_path):
    put(tmp_path, "s/a_0.png", "s/a_3.png", "s/b/0.png", "s/b/1.png", "s/c_1.png")
    write(tmp_path / "prompts.csv", "item,text\na,A\nb,B\nc_1,C1\nc,C\n")
    listing = read_samples(tmp_path)
    assert keys(listing) == [
        ("s", "a", 0),
        ("s", "a", 3),
        ("s", "b", 0),
        ("s", "b", 1),
        ("s", "c_1", 0),
    ]
    assert texts(listing) == ["A", "A", "B", "B", "C1"]
    assert listing.lines() == ["1 prompt has no image: c"]


def test_one_system_in_folders_by_item(tmp_path):
    put(tmp_path, "a/0.png", "a/1.png", "b/0.png")
    write(tmp_path / "prompts.csv", "item,text\na,A\nb,B\n")
    listing = read_samples(tmp_path)
    assert keys(listing) == [(tmp_path.name, i, n) for i, n in [("a", 0), ("a", 1), ("b", 0)]]
    assert listing.findings == []


def test_same_item_in_two_suffixes(tmp_path):
    put(tmp_path, "s/a.png", "s/a.jpg")
    write(tmp_path / "prompts.csv", "item,text\na,A\n")
    assert keys(read_samples(tmp_path)) == [("s", "a", 0), ("s", "a", 1)]


def test_conflicting_prompts_of_an_item(tmp_path):
    put(tmp_path, "s/a.png")
    write(tmp_path / "prompts.csv", "item,text\na,first\na,second\n")
    listing = read_samples(tmp_path)
    assert texts(listing) == ["first"]
    assert kinds(listing) == ["conflicting_prompts"]


def test_prompts_by_system_and_item(tmp_path):
    put(tmp_path, "s/a.png", "u/a.png")
    write(tmp_path / "prompts.csv", "system,item,text\ns,a,S\nu,a,U\n")
    assert texts(read_samples(tmp_path)) == ["S", "U"]


def test_items_with_accents_match_however_encoded(tmp_path):
    put(tmp_path, "s/cafe\u0301.png")
    write(tmp_path / "prompts.csv", "item,text\ncaf\u00e9,t\n")
    assert texts(read_samples(tmp_path)) == ["t"]


def test_system_option(tmp_path):
    put(tmp_path, "a.png", "x/b.png")
    assert keys(read_samples(tmp_path, text="t", system="S")) == [("S", "a", 0), ("S", "x/b", 0)]


def test_mixed_layout_is_a_finding(tmp_path):
    put(tmp_path, "a.png", "s/b.png")
    listing = read_samples(tmp_path, text="t")
    assert keys(listing) == [(tmp_path.name, "a", 0), ("s", "b", 0)]
    assert kinds(listing) == ["mixed_layout"]


def test_no_prompts_at_all(tmp_path):
    put(tmp_path, "a.png", "b.png")
    assert read_samples(tmp_path).lines() == [
        "2 images have no prompt (there is no prompts file and no text file beside an image):"
        " a.png, b.png"
    ]


def test_hugging_face_metadata(tmp_path):
    put(tmp_path, "train/a.png", "train/x/b.png", "test/c.png")
    write(tmp_path / "metadata.csv", "file_name,text\ntrain/a.png,far\ntrain/x/b.png,B\n")
    write(tmp_path / "train" / "metadata.jsonl", '{"file_name": "a.png", "text": "near"}\n')
    write(tmp_path / "test" / "metadata.csv", "file_name,text,label\nc.png,C,7\n")
    listing = read_samples(tmp_path)
    found = {(s.system, s.item): s.text for s in listing.samples}
    assert found == {("train", "a"): "near", ("train", "x/b"): "B", ("test", "c"): "C"}
    assert listing.findings == []
    assert all(Path(s.image).exists() for s in listing.samples)


def test_several_sources_are_a_finding(tmp_path):
    put(tmp_path, "a.png", "b.png")
    write(tmp_path / "prompts.csv", "image,text\na.png,A\nb.png,B\n")
    write(tmp_path / "prompts.jsonl", '{"image": "a.png", "text": "other"}\n')
    write(tmp_path / "a.txt", "A\n")
    write(tmp_path / "b.txt", "something else")
    listing = read_samples(tmp_path)
    assert texts(listing) == ["A", "B"]
    assert listing.lines() == [
        "the folder has 3 sources of prompts, only prompts.csv is used:"
        " prompts.csv, prompts.jsonl, 2 text files beside images",
        "1 text file beside an image says something else than the prompts file: b.txt",
    ]


def test_two_metadata_files_in_one_folder(tmp_path):
    put(tmp_path, "a.png")
    write(tmp_path / "metadata.csv", "file_name,text\na.png,A\n")
    write(tmp_path / "metadata.jsonl", '{"file_name": "a.png", "text": "B"}\n')
    listing = read_samples(tmp_path)
    assert texts(listing) == ["A"]
    assert kinds(listing) == ["several_prompt_sources"]


def test_links(tmp_path):
    put(tmp_path, "s/a.png")
    try:
        (tmp_path / "s" / "loop").symlink_to(tmp_path)
        (tmp_path / "best").symlink_to(tmp_path / "s")
        (tmp_path / "s" / "broken.png").symlink_to(tmp_path / "nowhere")
    except OSError:
        pytest.skip("no symbolic links here")
    listing = read_samples(tmp_path, text="t")
    assert [s.item for s in listing.samples] == ["a", "broken"]
    assert listing.lines() == ["2 links lead to folders that were read already: best, s/loop"]


def test_a_linked_folder_from_outside_is_read(tmp_path):
    put(tmp_path, "outside/a.png", "root/b.txt")
    (tmp_path / "root" / "s").symlink_to(tmp_path / "outside")
    assert keys(read_samples(tmp_path / "root", text="t")) == [("s", "a", 0)]


def test_name_that_is_not_utf8(tmp_path):
    try:
        (tmp_path / os.fsdecode(b"a\xff.png")).touch()
    except OSError:
        pytest.skip("this file system wants UTF-8")
    listing = read_samples(tmp_path)
    assert listing.samples[0].item == "a\ufffd"
    assert Path(listing.samples[0].image).exists()
    "".join(listing.lines()).encode()


def test_single_image(tmp_path):
    put(tmp_path, "s/a.png")
    listing = read_samples(tmp_path / "s" / "a.png", text="t")
    assert keys(listing) == [("s", "a", 0)]
    assert texts(listing) == ["t"]
    assert read_samples(tmp_path / "s" / "a.png", system="S").samples[0].system == "S"


def test_single_image_takes_its_sidecar(tmp_path):
    put(tmp_path, "a.png")
    write(tmp_path / "a.txt", "beside")
    assert texts(read_samples(tmp_path / "a.png")) == ["beside"]


# What stops a run


def test_path_that_does_not_exist(tmp_path):
    put(tmp_path, "images/a.png")
    assert error_of(tmp_path / "image") == (
        f"{tmp_path / 'image'} does not exist; did you mean {tmp_path / 'images'}?"
    )
    assert error_of(tmp_path / "zzz" / "q").endswith("does not exist")


def test_prompts_file_that_does_not_exist(tmp_path):
    put(tmp_path, "a.png", "prompt.csv")
    assert "did you mean" in error_of(tmp_path, prompts=tmp_path / "prompts.csv")


def test_wrong_suffix(tmp_path):
    assert "is neither a folder nor a table" in error_of(write(tmp_path / "a.xlsx", "x"))
    put(tmp_path, "a.png")
    assert "is not a table" in error_of(tmp_path, prompts=write(tmp_path / "p.json", "{}"))


def test_folder_without_images(tmp_path):
    put(tmp_path, "a.md", "b.txt")
    assert error_of(tmp_path).endswith(".tiff; 2 other files)")


def test_prompts_without_image_or_item(tmp_path):
    put(tmp_path, "a.png")
    write(tmp_path / "prompts.csv", "text\na cat\n")
    assert "needs a column image (or file_name, image_path, path) or item" in error_of(tmp_path)


# Python values


def test_samples_from_pairs():
    samples = samples_from(["a.png", Path("b.png")], ["x", "y"])
    assert [(s.item, s.system, s.text, s.index) for s in samples] == [
        ("0", "", "x", 0),
        ("1", "", "y", 0),
    ]


def test_samples_from_a_batch():
    batch = np.zeros((3, 4, 4, 3), np.uint8)
    samples = samples_from(batch, "one for all", systems="s")
    assert [s.text for s in samples] == ["one for all"] * 3
    assert samples[0].image.shape == (4, 4, 3)


def test_samples_from_a_tensor_keeps_gradients():
    torch = pytest.importorskip("torch")
    batch = torch.zeros(2, 3, 4, 4, requires_grad=True)
    samples = samples_from(batch, ["x", "y"])
    assert samples[1].image.shape == (3, 4, 4)
    assert samples[1].image.requires_grad


@pytest.mark.parametrize(
    "image", ["a.png", Path("a.png"), b"abc", Image.new("RGB", (2, 2)), np.zeros((2, 2, 3))]
)
def test_one_image_is_a_list_of_one(image):
    (sample,) = samples_from(image, "t")
    assert sample.image is image


def test_samples_from_columns():
    samples = samples_from(
        ["a", "b"],
        item=["i", "i"],
        system=["s", "s"],
        references=["r", ["q", "r"]],
        source_image=["c", None],
        source_text="before",
        level=[1, 2],
    )
    assert [s.index for s in samples] == [0, 1]
    assert [s.references for s in samples] == [("r",), ("q", "r")]
    assert [s.source_image for s in samples] == ["c", None]
    assert [s.source_text for s in samples] == ["before", "before"]
    assert [s.meta for s in samples] == [{"level": 1}, {"level": 2}]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"texts": ["x"]}, "2 images but 1 texts"),
        ({"texts": ["x", 3]}, "texts must be texts, not int"),
        ({"texts": 3}, "texts must be a sequence of 2 values"),
        ({"items": ["x"]}, "2 images but 1 items"),
        ({"items": "xy"}, "items needs one value an image"),
        ({"items": ["x", "y"], "item": ["x", "y"]}, "give items or item, not both"),
        ({"systems": ["x"] * 3}, "2 images but 3 systems"),
        ({"references": "r"}, "references needs one value an image"),
        ({"source_images": ["c", "d"]}, "did you mean source_image?"),
        ({"items": ["x", "x"], "index": [1, 1]}, "have the index 1"),
    ],
)
def test_samples_from_mistakes(options, message):
    with pytest.raises(UsageError) as caught:
        samples_from(["a", "b"], **options)
    assert message in str(caught.value)


def test_no_images():
    assert samples_from([]) == []


# Size, real data


def test_many_rows_are_read_in_seconds(tmp_path):
    rows = "".join(f"s{i % 4}/{i}.png,prompt {i},{i}\n" for i in range(20_000))
    table = read_table(write(tmp_path / "t.csv", "image,text,item\n" + rows))
    assert len(table) == 20_000
    listing = read_samples(tmp_path / "t.csv")
    assert listing.samples[-1].item == "19999"
    assert listing.findings[0].count == 20_000


@pytest.mark.skipif(not REAL.is_dir(), reason="the shared images are not here")
def test_real_table_and_folder():
    listing = read_samples(REAL / "prompts.csv")
    assert len(listing.samples) == 16
    assert listing.findings == []
    assert listing.samples[0].item == "t2v_0"
    assert listing.samples[0].system == "DALLE3"
    folder = read_samples(REAL)
    assert [(s.system, s.item, s.text) for s in folder.samples] == [
        (s.system, s.item, s.text) for s in listing.samples
    ]


def test_links_that_lead_to_themselves_cost_their_rows(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a square")
    for name in ("b.png", "a2.txt", "c"):
        (tmp_path / name).symlink_to(name)
    listing = read_samples(tmp_path)
    assert [os.path.basename(sample.image) for sample in listing.samples] == ["a.png", "b.png"]
    (tmp_path / "prompts.csv").symlink_to("prompts.csv")
    with pytest.raises(UsageError, match=r"prompts\.csv"):
        read_samples(tmp_path)
