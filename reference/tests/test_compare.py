"""The command scores as the reference does: some images of the test split, converted to f32 and q8_0. `reference.compare` does the whole split."""

import json
import os
import subprocess

import pytest

torch = pytest.importorskip("torch")

from .. import checkpoint  # noqa: E402
from ..compare import compare, read_items, summarise  # noqa: E402
from .test_command import COMMAND  # noqa: E402
from .test_golden import ROOT, SHARED  # noqa: E402

DATA = SHARED / "data/train"
NANO = ROOT / "reference/nano"
IMAGES = 8

pytestmark = [
    pytest.mark.skipif(not COMMAND.exists(), reason="build/bin/unibiomed is not built: ./build.sh build"),
    pytest.mark.skipif(not (DATA / "index.jsonl").exists(), reason="no data set: set UNIBIOMED_SHARED to the folder that holds data/train"),
]


@pytest.fixture(scope="module")
def some(tmp_path_factory):
    """A data set of every so many images of the test split, with the masks where they are."""
    rows = [json.loads(line) for line in open(DATA / "index.jsonl")]
    rows = [r for r in rows if r["split"] == "test" and not r["noncommercial"] and r["targets"]]
    folder = tmp_path_factory.mktemp("some")
    for kind in {r["image"].split("/")[0] for r in rows}:
        (folder / kind).symlink_to(DATA / kind)
    (folder / "index.jsonl").write_text("\n".join(json.dumps(r) for r in rows[:: len(rows) // IMAGES]))
    return folder


@pytest.mark.parametrize(("kind", "mean", "each"), [("f32", 0.005, 0.005), ("q8_0", 0.01, None)])
def test_same_scores(kind, mean, each, some, tmp_path):
    def run(*args):
        exact = {"UNIBIOMED_ACCEL": "exact"} if kind == "f32" else {}
        done = subprocess.run([COMMAND, *map(str, args), "--quiet"], capture_output=True, text=True, env=os.environ | exact)
        assert done.returncode == 0, done.stderr

    run("convert", NANO, "--out", tmp_path / "model", "--type", kind)
    run("eval", some, "--model", tmp_path / "model", "--out", tmp_path / "scores")
    torch.set_num_threads(2)
    result = summarise(compare(checkpoint.load(NANO), some, read_items(tmp_path / "scores/items.ndjson")))
    assert result["masks"] >= IMAGES
    assert result["mean_difference"] <= mean, result
    assert result["same_text"] == 1.0 if each else result["same_text"] >= 0.9, result
    if each:
        assert result["largest_difference"] <= each, result
