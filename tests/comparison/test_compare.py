from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from sealed import flip_bit, read_plain

import attngraft as ag
from attngraft.comparison import compare
from attngraft.comparison.build_model import ModelSource
from attngraft.comparison.run_all import Results, best_so_far
from attngraft.comparison.variants import parse_variants
from attngraft.errors import AttngraftError, ConfigError, RunError, TrainingError
from attngraft.reporting import write_report
from attngraft.tasks import Classification, primary
from attngraft.training import PREDICTIONS_FILE, Evaluation


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return ag.load(folder).state_dict()


def assert_same_runs(one: Path, other: Path) -> None:
    runs = sorted(p.parent.relative_to(one) for p in one.glob("runs/*/*/run.json"))
    assert runs
    for run in runs:
        theirs = weights(other / run)
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in weights(one / run).items())
        assert np.array_equal(
            Evaluation.read(one / run / PREDICTIONS_FILE).probabilities,
            Evaluation.read(other / run / PREDICTIONS_FILE).probabilities,
        )


def test_everything_is_in_the_document(finished):
    document = read_plain(finished.run_dir / "comparison.json")
    assert document == json.loads(finished.to_json())
    assert document["status"] == "finished"
    assert [row["name"] for row in document["variants"]] == ["none", "se", "none (other seeds)", "static"]
    for row in document["variants"]:
        assert len(row["top1_per_seed"]) == len(row["train_time_s"]) == len(row["runs"]) == 2
        assert row["latency_ms"]["n"] >= 10
        assert row["latency_ms"]["median"] > 0
    assert set(finished.verdicts) == {"se", "none (other seeds)", "static"}
    assert "price at 3 sites" in str(finished)


def test_effects_are_the_differences_of_the_kept_predictions(finished):
    def correct(slug: str, seed: int) -> np.ndarray:
        return Evaluation.read(finished.run_dir / f"runs/{slug}/seed-{seed}" / PREDICTIONS_FILE).correct

    by_pair = {(e["variant"], e["against"]): e for e in finished.effects}
    assert set(by_pair) == {
        ("se", "none"),
        ("none (other seeds)", "none"),
        ("static", "none"),
        ("se", "static"),
    }
    for (variant, against), effect in by_pair.items():
        slugs = {"none (other seeds)": "none_other_seeds"}
        gains = [correct(slugs.get(variant, variant), seed).mean() - correct(against, seed).mean() for seed in (0, 1)]
        assert effect["mean"] == pytest.approx(np.mean(gains), abs=1e-12)
        assert effect["low"] <= effect["mean"] <= effect["high"]
        assert effect["seeds"] == 2
        assert effect["images"] == 60
        assert sum(row["images"] for row in effect["per_class"]) == (60 if against == "none" else 0)
        assert effect["seed_effects"] == pytest.approx(gains, abs=1e-12)


def test_costs_are_counted_and_not_only_measured(finished):
    rows = {row["name"]: row for row in finished.document["variants"]}
    attention = sum(p.numel() for c in (32, 64, 128) for p in ag.create_attention("se", c).parameters())
    assert rows["se"]["parameters_added"] == attention
    assert rows["static"]["parameters_added"] == 32 + 64 + 128
    assert rows["none"]["parameters_added"] == rows["none (other seeds)"]["parameters_added"] == 0


def test_one_seed_gives_every_variant_the_same_start(settings):
    plain, grown = (
        variant.grow(
            ModelSource(settings["backbone"]).fresh(10, 7),
            variant.plan(ModelSource(settings["backbone"]).template(), (3, 16, 16)),
            7,
        )
        for variant in parse_variants(["cbam"], [])
    )
    common = plain.state_dict()
    assert all(torch.equal(common[name], tensor) for name, tensor in grown.state_dict().items() if name in common)
    x = torch.randn(4, 3, 16, 16)
    assert torch.equal(plain.eval()(x), grown.eval()(x))


def test_the_second_self_of_the_baseline_has_other_seeds(finished):
    seeds = [read_plain(finished.run_dir / f"runs/none_other_seeds/seed-{s}" / "run.json")["seed"] for s in (0, 1)]
    assert seeds == [1000, 1001]


def test_a_finished_comparison_is_not_done_again(finished, tmp_path, digits, settings):
    folder = shutil.copytree(finished.run_dir, tmp_path / "again")  # its record is written again
    before = {name: data for name, data in snapshot(folder).items() if name.startswith("runs")}
    again = compare(digits, attentions=["se", "none"], controls=["static"], seeds=2, run_dir=folder, **settings)
    after = {name: data for name, data in snapshot(folder).items() if name.startswith("runs")}
    assert before == after
    assert again.verdicts == finished.verdicts


def test_more_seeds_and_variants_keep_what_is_there(tmp_path, digits, settings):
    compare(digits, attentions=["eca"], seeds=1, run_dir=tmp_path, **settings)
    before = snapshot(tmp_path / "runs")
    larger = compare(digits, attentions=["eca", "simam"], seeds=2, run_dir=tmp_path, **settings)
    after = snapshot(tmp_path / "runs")
    assert all(after[name] == data for name, data in before.items())
    assert len(larger.document["variants"]) == 3
    assert larger.document["seeds"] == [0, 1]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"epochs": 2}, "recipe"),
        ({"image_size": 24}, "preprocessing"),
        ({"backbone": "resnet18-32"}, "backbone"),
        ({"precision": "bf16"}, "precision"),
    ],
)
def test_another_request_is_refused_and_nothing_changes(finished, digits, settings, change, word):
    before = snapshot(finished.run_dir)
    with pytest.raises(RunError, match=word):
        compare(digits, attentions=["se"], seeds=2, run_dir=finished.run_dir, **(settings | change))
    assert snapshot(finished.run_dir) == before


def test_other_images_are_refused(finished, settings):
    other = ag.load_data("cluttered-digits", image_size=16, limit=50)
    with pytest.raises(RunError, match="other images"):
        compare(other, attentions=["se"], seeds=2, run_dir=finished.run_dir, **settings)


@pytest.mark.parametrize(
    "name",
    ["comparison.json", *(f"runs/se/seed-1/{name}" for name in ("run.json", "metrics.jsonl", PREDICTIONS_FILE))],
)
def test_a_damaged_file_is_found_before_anything_is_concluded_from_it(finished, tmp_path, digits, settings, name):
    folder = tmp_path / "again"
    shutil.copytree(finished.run_dir, folder)
    flip_bit(folder / name, bit=2)
    before = snapshot(folder)
    with pytest.raises(RunError, match=r"was changed after it was written|cannot be read"):
        compare(digits, attentions=["se"], controls=["static"], seeds=2, run_dir=folder, **settings)
    assert snapshot(folder) | {"comparison.json": b""} == before | {"comparison.json": b""}


def test_a_folder_with_other_files_is_refused(tmp_path, digits, settings):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(RunError, match=r"no comparison\.json"):
        compare(digits, attentions=["se"], seeds=1, run_dir=tmp_path, **settings)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"attentions": ["cbma"]}, "did you mean 'cbam'"),
        ({"attentions": ["cbam@blocck1"]}, "did you mean 'block1'"),
        ({"recipe": "three-fase"}, "did you mean 'three-phase'"),
        ({"seeds": 0}, "at least 1"),
        ({"seeds": [1, 1]}, "different numbers"),
        ({"batch_sise": 3}, "did you mean 'batch_size'"),
        ({"pretrained": True}, "no published weights"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_written(tmp_path, digits, settings, change, match):
    request = {"attentions": ["se"], "seeds": 1, "run_dir": tmp_path / "new", **settings} | change
    with pytest.raises(AttngraftError, match=match):
        compare(digits, **request)
    assert not (tmp_path / "new").exists()


def test_a_grafted_run_is_no_baseline(tmp_path, finished, digits, settings):
    grafted = str(finished.run_dir / "runs/se/seed-0")
    with pytest.raises(ConfigError, match="grafts already"):
        compare(digits, attentions=["eca"], seeds=1, run_dir=tmp_path, **(settings | {"backbone": grafted}))


def test_a_plain_run_can_be_the_backbone(tmp_path, finished, digits, settings):
    plain = str(finished.run_dir / "runs/none/seed-0")
    result = compare(digits, attentions=["eca"], seeds=1, run_dir=tmp_path, **(settings | {"backbone": plain}))
    assert result.verdicts == {"eca": "one seed"}


def test_samples_show_what_changed(finished):
    kept = {s["file"] for s in finished.document["samples"]}
    assert all((finished.run_dir / file).is_file() for file in kept)
    for sample in finished.document["samples"]:
        right = [sum(guess == sample["label"] for guess in sample[key]) for key in ("before", "after")]
        assert (right[1] > right[0]) == (sample["direction"] == "fixed")
        assert sample["variant"] == "se"


def test_the_report_stands_on_the_folder_alone(finished):
    page = write_report(finished.run_dir).read_text(encoding="utf-8")
    assert "se" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_a_page_without_curves_does_not_miss_them(tmp_path, digits, settings):
    compare(digits, attentions=["se"], seeds=1, run_dir=tmp_path, curve=False, **settings)
    assert "No metrics in this folder" not in write_report(tmp_path).read_text(encoding="utf-8")


SCRIPT = """
import sys, torch
torch.set_num_threads(1)
import attngraft as ag
from attngraft.comparison import compare
data = ag.load_data("cluttered-digits", image_size=16, limit=60)
compare(data, backbone="small-cnn", attentions=["se"], seeds=2, recipe="one-cycle", epochs=4, image_size=16,
        batch_size=10, precision="fp32+contiguous", device="cpu", run_dir=sys.argv[1])
"""


def start(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder)], stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> None:
    _, messages = process.communicate(timeout=600)
    assert process.returncode == 0, messages.decode()


def wait_for(condition, process: subprocess.Popen[bytes], limit_s: float = 600) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for others")
@pytest.mark.slow  # kills of comparisons and signals to runs are among the faults
def test_a_comparison_that_was_interrupted_ends_with_the_same_bits(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    reference = start(whole)
    process = start(broken)
    wait_for(lambda: any(broken.glob("runs/se/seed-0/checkpoints/*.safetensors")), process)
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode != 0
    finish(reference)
    assert not (broken / "runs/se/seed-1").exists() or not (broken / "runs/se/seed-1/model.safetensors").exists()
    finish(start(broken))
    assert_same_runs(whole, broken)


def test_a_variant_that_was_tried_stays_a_column(tmp_path, digits, settings):
    compare(digits, attentions=["se", "eca"], seeds=1, run_dir=tmp_path, **settings)
    later = compare(digits, attentions=["simam"], controls=["static"], seeds=1, run_dir=tmp_path, **settings)
    assert [row["name"] for row in later.document["variants"]] == ["none", "se", "eca", "simam", "static"]


def test_repeated_looks_are_counted_and_said(tmp_path, digits, settings):
    first = compare(digits, attentions=["se"], seeds=1, run_dir=tmp_path, **settings)
    assert first.document["looks"] == [[0]]
    again = compare(digits, attentions=["se"], seeds=1, run_dir=tmp_path, **settings)
    assert again.document["looks"] == [[0]]
    more = compare(digits, attentions=["se"], seeds=2, run_dir=tmp_path, **settings)
    assert more.document["looks"] == [[0], [0, 1]]
    assert "looked at 2 times" in str(more)
    assert "looked at" not in str(first)


def test_renamed_test_images_are_other_images(tmp_path, settings):
    rng = np.random.default_rng(0)
    root = tmp_path / "data"
    for split in ("train", "test"):
        for label in ("a", "b"):
            (root / split / label).mkdir(parents=True)
            for number in range(6):
                pixels = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / label / f"{number}.png")
    small = settings | {"batch_size": 4}
    compare(root, attentions=["se"], seeds=1, run_dir=tmp_path / "run", **small)
    (root / "test/a/0.png").rename(root / "test/a/9.png")
    with pytest.raises(RunError, match="other images"):
        compare(root, attentions=["se", "eca"], seeds=1, run_dir=tmp_path / "run", **small)


def test_the_capacity_control_is_matched_to_the_first_attention(tmp_path, digits, settings):
    result = compare(digits, attentions=["bam"], controls=["capacity"], seeds=1, run_dir=tmp_path, **settings)
    added = {row["name"]: row["parameters_added"] for row in result.document["variants"]}
    assert added["capacity"] == pytest.approx(added["bam"], rel=0.2)


def test_a_trained_model_knows_its_size_and_its_classes(finished, digits, tmp_path):
    run = finished.run_dir / "runs/se/seed-0"
    files = []
    for number in range(4):
        files.append(tmp_path / f"{number}.png")
        Image.fromarray(digits.test.image(number).permute(1, 2, 0).numpy()).save(files[-1])
    by_folder, by_model = ag.predict(run, files), ag.predict(ag.load(run), files)
    assert by_folder.classes == by_model.classes == digits.classes
    assert np.array_equal(by_folder.probabilities, by_model.probabilities)
    kept = Evaluation.read(run / PREDICTIONS_FILE).probabilities[:4]
    assert np.allclose(by_folder.probabilities, kept, atol=1e-5)


def test_seeds_that_were_looked_at_stay(tmp_path, digits, settings):
    compare(digits, attentions="se", seeds=2, run_dir=tmp_path, **settings)
    fewer = compare(digits, attentions="se", seeds=1, run_dir=tmp_path, **settings)
    assert fewer.document["seeds"] == [0, 1]


def test_a_diverged_network_has_no_verdict(tmp_path, digits, settings):
    wild = settings | {"lr_scale": 1e30, "batch_size": 60}  # one step: the loss before it was finite
    with pytest.raises(TrainingError, match="not finite"):
        compare(digits, attentions=["se"], seeds=1, run_dir=tmp_path, **wild)
    assert json.loads((tmp_path / "comparison.json").read_text())["status"] == "partial"


def _ended(**scores: list[float | None]) -> Results:
    """Runs of seed 0 and on; None for one that diverged."""

    def run(score: float) -> SimpleNamespace:
        return SimpleNamespace(evaluation=SimpleNamespace(value=lambda name: score))

    finished = {n: {s: run(x) for s, x in enumerate(all_) if x is not None} for n, all_ in scores.items()}
    failures = {n: {s: "why" for s, x in enumerate(all_) if x is None} for n, all_ in scores.items()}
    return Results(finished, failures)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("scores", "told"),
    [
        ({"none": [0.31], "se": []}, ""),
        ({"none": [0.31], "se": [0.30]}, "best so far: none, top-1 31.0 % (mean of 1)"),
        ({"none": [0.31, 0.10], "se": [0.30]}, "best so far: none, top-1 31.0 % (mean of 1)"),
        ({"none": [0.31, 0.10], "se": [0.30, 0.30]}, "best so far: se, top-1 30.0 % (mean of 2)"),
        ({"none": [0.31, 0.10], "se": [None, 0.90]}, "best so far: none, top-1 20.5 % (mean of 2)"),
        ({"none": [None], "se": [None]}, "none of them with finite numbers"),
    ],
    ids=["a pair is missing", "a pair", "a half more", "two pairs", "one diverged", "all diverged"],
)
def test_the_best_so_far_is_that_of_the_seeds_that_all_have(scores, told):
    context = SimpleNamespace(metric=primary(Classification(("a", "b"))))
    assert best_so_far(context, _ended(**scores)) == told
