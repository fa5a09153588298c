"""CSV files as data sets: tasks by their columns, splits, and what is wrong with a file in one sentence."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_folders import write_noise

from attngraft.data import ClassLabels, Dataset, LabelSets, Values, load_data
from attngraft.data.image_table import read_image_table
from attngraft.data.splits import carve_loosely
from attngraft.errors import DataError


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with images/0.png to images/39.png."""
    for number in range(40):
        write_noise(tmp_path / "images" / f"{number}.png", number)
    return tmp_path


def table(folder: Path, header: str, cells: list[str], name: str = "data.csv") -> Path:
    """One line for each image: its path, then the cell."""
    rows = [f"images/{number}.png,{cell}" for number, cell in enumerate(cells)]
    (folder / name).write_text("\n".join([header, *rows]) + "\n")
    return folder / name


def load(source: Path, **options: object) -> Dataset:
    return load_data(source, image_size=16, **options)  # type: ignore[arg-type]


# --- tasks -------------------------------------------------------------------------------------------------------


def test_a_column_of_classes(photos: Path):
    data = load(table(photos, "path,label", ["bee", "ant"] * 20))
    assert (data.task, data.classes, data.name) == ("classification", ("ant", "bee"), "data")
    assert isinstance(data.train.targets, ClassLabels)
    assert len(data.test) == 8
    assert np.bincount(data.test.labels).tolist() == [4, 4]
    assert (
        data.report.notes[0] == "the task is classification, by the column label of data.csv; --task chooses another."
    )
    assert data.origin is not None
    assert data.origin.task is None


def test_a_column_of_label_sets(photos: Path):
    data = load(table(photos, "path,labels", ["cat|dog", "dog", "", " cat | owl "] * 10))
    assert (data.task, data.classes) == ("multilabel", ("cat", "dog", "owl"))
    assert isinstance(data.train.targets, LabelSets)
    rows = {i: data.train.targets.get(k).tolist() for k, i in enumerate(data.train.ids)}
    rows |= {i: data.test.targets.get(k).tolist() for k, i in enumerate(data.test.ids)}
    assert [rows[f"images/{i}.png"] for i in range(4)] == [[1, 1, 0], [0, 1, 0], [0, 0, 0], [1, 0, 1]]
    assert data.train.targets.present == data.test.targets.present == {0, 1, 2}


def test_columns_of_numbers(photos: Path):
    data = load(table(photos, "path,Age,height_m", [f"{i}, {i / 8}" for i in range(40)]))
    assert (data.task, data.classes) == ("regression", ("Age", "height_m"))
    assert isinstance(data.train.targets, Values)
    place = data.train.ids.index("images/9.png") if "images/9.png" in data.train.ids else 0
    number = int(Path(data.train.ids[place]).stem)
    assert data.train.targets.get(place).tolist() == [number, number / 8]
    assert len(data.test) == 8


@pytest.mark.parametrize(
    ("header", "task", "names"),
    [
        ("path,label", "regression", ("label",)),
        ("path,label", "multilabel", ("1", "2")),
        ("path,labels", "classification", ("1", "2")),
        ("path,species", "classification", ("1", "2")),
        ("path,tags", "multilabel", ("1", "2")),
    ],
)
def test_the_task_can_be_given(photos: Path, header: str, task: str, names: tuple[str, ...]):
    data = load(table(photos, header, ["1", "2"] * 20), task=task)
    assert (data.task, data.classes) == (task, names)
    assert not any("the task is" in note for note in data.report.notes)
    assert data.origin is not None
    assert data.origin.task == task


def test_a_file_without_a_header_has_paths_and_classes(photos: Path):
    assert load(table(photos, "images/39.png,ant", ["bee", "ant"] * 19)).classes == ("ant", "bee")


def test_other_columns_are_named_and_not_used(photos: Path):
    data = load(table(photos, "path,label,camera", ["ant,1", "bee,2"] * 20))
    assert "columns that are not used: 'camera'." in data.report.notes


def test_a_task_of_folders_is_classification(photos: Path):
    for name in ("a", "b"):
        write_noise(photos / "classes" / name / "x.png", hash(name) % 99)
        write_noise(photos / "classes" / name / "y.png", 100 + hash(name) % 99)
    with pytest.raises(DataError, match="expected a CSV file for the task 'regression'"):
        load(photos / "classes", task="regression")


# --- splits ------------------------------------------------------------------------------------------------------


def test_a_column_may_name_the_splits(photos: Path):
    splits = ["train", "Training", "valid", "TEST"]
    data = load(table(photos, "path,split,label", [f"{splits[i // 2 % 4]},{'ab'[i % 2]}" for i in range(40)]))
    assert data.val is not None
    assert [len(data.train), len(data.val), len(data.test)] == [20, 10, 10]
    assert data.val.ids[0] == "images/4.png"


def test_one_file_per_split_beside_the_images(photos: Path):
    for name, numbers in {"train": range(20), "val": range(20, 30), "test": range(30, 40)}.items():
        rows = [f"images/{i}.png,{i}" for i in numbers]
        (photos / f"{name}.csv").write_text("\n".join(["path,age", *rows]))
    data = load(photos)
    assert data.val is not None
    assert [len(data.train), len(data.val), len(data.test)] == [20, 10, 10]
    assert data.name == photos.name
    assert data.test.ids[0] == "images/30.png"
    assert load(photos).fingerprint == data.fingerprint


def test_files_of_splits_have_the_same_columns(photos: Path):
    table(photos, "path,age", ["1", "2"], "train.csv")
    table(photos, "path,size", ["1", "2"], "test.csv")
    with pytest.raises(DataError, match=r"test.csv has the columns path,size and .*train.csv path,age"):
        load(photos)


def test_class_folders_with_a_list_beside_them_stay_class_folders(tmp_path: Path):
    for number, folder in enumerate(("train/a", "train/b", "test/a", "test/b")):
        write_noise(tmp_path / folder / "x.png", number)
    (tmp_path / "train.csv").write_text("path,label\ntrain/a/x.png,c\n")
    assert load(tmp_path).classes == ("a", "b")


def test_other_tables_in_a_folder_of_classes_are_ignored(tmp_path: Path):
    for number in range(8):
        write_noise(tmp_path / "ab"[number % 2] / f"{number}.png", number)
    (tmp_path / "train.csv").write_text("epoch,loss\n1,0.5\n")
    assert load(tmp_path).classes == ("a", "b")


def test_every_label_is_on_both_sides_where_it_can_be(photos: Path):
    rare = {0: "x", 1: "x", 2: "y", 3: "y|z", 4: "z"}
    cells = [rare.get(i, "common") + ("|pair" if i in (0, 2) else "") for i in range(40)]
    for seed in range(8):
        data = load(table(photos, "path,labels", cells), split_seed=seed)
        assert data.train.targets.present == data.test.targets.present == set(range(5))
        assert 6 <= len(data.test) <= 13


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_split_never_parts_a_family_and_takes_about_its_share(data: st.DataObject):
    count = data.draw(st.integers(2, 60))
    families = [str(data.draw(st.integers(0, count))) for _ in range(count)]
    sets = np.array([[data.draw(st.booleans()) for _ in range(4)] for _ in range(count)])
    strata = LabelSets(sets).strata if data.draw(st.booleans()) else Values(np.arange(count)).strata
    if len(set(families)) < 2:
        return
    chosen = carve_loosely(strata, families, fraction=0.25, seed=0, purpose="test", sets=sets)
    inside, outside = ({families[i] for i in np.flatnonzero(side)} for side in (chosen, ~chosen))
    assert inside
    assert outside
    assert not inside & outside
    for label in range(4):
        holders = {families[i] for i in np.flatnonzero(sets[:, label])}
        if len(holders) >= 2 and (sets.sum(1) <= 1).all():
            assert holders & inside
            assert holders & outside


def test_numbers_are_split_across_their_range(photos: Path):
    for seed in range(5):
        data = load(table(photos, "path,age", [str(i) for i in range(40)]), split_seed=seed)
        ages = data.test.targets.collate(range(len(data.test)))[:, 0]
        assert (ages < 20).sum() == (ages >= 20).sum() == 4


def test_repeated_pixels_stay_on_one_side(photos: Path):
    for number in range(20, 40):
        write_noise(photos / "images" / f"{number}.png", number - 20)
    data = load(table(photos, "path,age", [str(i % 20) for i in range(40)]))
    assert not data.report.leaks
    assert data.report.duplicates == 20


def test_a_limit_keeps_the_proportions(photos: Path):
    cells = [f"{'test' if i % 2 else 'train'},{'a' if i % 8 < 2 else 'b'}" for i in range(40)]
    data = load(table(photos, "path,split,labels", cells), limit=8)
    assert (len(data.train), len(data.test)) == (8, 8)
    assert data.train.targets.collate(range(8)).sum(0).tolist() == [2.0, 6.0]


# --- what is wrong with a file -----------------------------------------------------------------------------------

TWO = "images/0.png,ant\nimages/1.png,bee\n"
WRONG = [
    ("", None, "lists no images"),
    ("path,label\n", None, "lists no images: expected one line for each"),
    (
        "file,class\nx.png,ant\n",
        None,
        r"the first line of .*data.csv reads 'file,class': expected the columns path,label",
    ),
    ("path\nimages/0.png\n", None, "has nothing to learn"),
    ("path;label\nimages/0.png;ant\n", None, "separated by semicolons: expected commas"),
    ("path\tlabel\nimages/0.png\tant\n", None, "separated by tabs"),
    ("path,label,label\nimages/0.png,ant,bee\n", None, "two columns of one name"),
    ("path,label,\nimages/0.png,ant,\n", None, "two columns of one name, or one without a name"),
    ("path,label\nimages/0.png,ant,3\n", None, r"line 2 of .*data.csv reads 'images/0.png,ant,3': expected 2 columns"),
    ("path,label\n" + TWO + "\nimages/2.png\n", None, "line 5 of"),
    ("path,label\nimages/0.png,\n", None, r"line 2 of .*: the label is empty, expected a class"),
    ("path,label\n,ant\n", None, r"line 2 of .*: the path is empty"),
    ("path,label\nimages/0.png,ant\nimages/1.png,ant\n", None, "has only one class, 'ant'"),
    ("path,label\n" + TWO + "./images/0.png,bee\n", None, r"line 4 .* two different labels, 'ant' and 'bee' \(line 2"),
    ("path,age\n" + TWO, None, r"line 2 of .*: age is 'ant', expected a number; a column of classes is called label"),
    ("path,age\nimages/0.png,nan\n", None, "line 2 of .*: age is 'nan', expected a finite number"),
    ("path,age\nimages/0.png,1e999\n", None, "expected a finite number"),
    (
        "path,age\nimages/0.png,1e39\n",
        None,
        "line 2 of .*: age is '1e39', expected a number between -3.4e38 and 3.4e38",
    ),
    ("path,age\n" + "images/0.png,1\nimages/0.png,2\n", None, r"line 3 .* two different targets, '1' and '2' \(line 2"),
    ("path,labels\nimages/0.png,\n", "classification", "line 2 of .*: labels is empty, expected a class"),
    ("path,age\nimages/0.png,\n", None, "age is '', expected a number"),
    ('path,age\nimages/0.png,"1,5"\n', None, "age is '1,5', expected a number"),
    ("path,age\nimages/0.png,1_000\n", None, "age is '1_000', expected a number"),
    ("path,labels\nimages/0.png,a||b\n", None, r"the labels are 'a\|\|b', expected a name on each side"),
    ("path,labels\nimages/0.png,\nimages/1.png,\n", None, "no image in .* has a label"),
    ("path,label,labels\n" + "images/0.png,a,b\n", None, "both a column label and a column labels"),
    ("path,x,y\nimages/0.png,a,b\n", "classification", "has the columns x, y: call the one with the classes label"),
    ("path,label,split\nimages/0.png,a,dev\n", None, "line 2 of .*: the split is 'dev', expected train, val or test"),
    ("path,label,split\nimages/0.png,a,\n", None, "the split is ''"),
    ("path,label\n" + TWO, "counting", "no data for the task 'counting'"),
    ("path,label\nimages/0.png,a\nimages/x.png,b\n", None, r"line 3 of .*: there is no file images/x.png in"),
    ('path,label\n"images/0.png,a\n', None, "is not CSV"),
    ("path,label\n" + TWO, None, "too few different images to split off a test set in 2 of 2 classes"),
    ("path,age\nimages/0.png,1\n", None, "too few different images to split off a test set"),
    (
        "path,label,split\nimages/0.png,a,train\nimages/1.png,b,train\nimages/2.png,a,test\n",
        None,
        "no readable images of 'b' in the test split of data",
    ),
]


@pytest.mark.parametrize(("text", "task", "told"), WRONG)
def test_what_is_wrong_with_a_file_is_one_sentence(photos: Path, text: str, task: str | None, told: str):
    (photos / "data.csv").write_text(text)
    with pytest.raises(DataError, match=told) as error:
        load(photos / "data.csv", task=task)
    assert "\n" not in str(error.value)


def test_a_byte_order_mark_and_any_line_ends_are_fine(photos: Path):
    text = table(photos, "path,label", ["a", "b"] * 20).read_text()
    before = load(photos / "data.csv").fingerprint
    for end in ("\n", "\r\n", "\r"):
        (photos / "data.csv").write_bytes(("\ufeff" + text.replace("\n", end)).encode())
        assert load(photos / "data.csv").fingerprint == before
    (photos / "data.csv").write_bytes(text.encode("utf-16"))
    with pytest.raises(DataError, match="not a text in UTF-8"):
        load(photos / "data.csv")


def test_a_huge_file_is_not_read(photos: Path):
    with (photos / "data.csv").open("wb") as file:
        file.truncate(3 << 30)
    with pytest.raises(DataError, match="bytes, more than"):
        load(photos / "data.csv")


def test_images_that_are_missing_or_broken_can_be_left_out(photos: Path):
    file = table(photos, "path,label", ["a", "b"] * 20)
    (photos / "images" / "3.png").unlink()
    (photos / "images" / "4.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"line 5 of .*there is no file images/3.png .*--skip-broken"):
        load(file)
    data = load(file, skip_broken=True)
    assert [path for path, _ in data.report.skipped] == ["images/3.png", "images/4.png"]
    assert len(data.train) + len(data.test) == 38


def test_repeated_lines_are_taken_once(photos: Path):
    file = table(photos, "path,label", ["a", "b"] * 20)
    once = load(file)
    file.write_text(file.read_text() + "./images/3.png,b\n")
    twice = load(file)
    assert twice.fingerprint == once.fingerprint
    assert "1 line repeats earlier ones." in twice.report.notes


def test_labels_that_a_split_lacks_are_named(photos: Path):
    cells = [f"{'train' if i < 30 else 'test'},{'a' if i < 30 else 'b'}" for i in range(40)]
    notes = load(table(photos, "path,split,labels", cells)).report.notes
    assert "no train image has the label 'b'." in notes
    assert "no test image has the label 'a'." in notes


# --- any file ----------------------------------------------------------------------------------------------------

LETTERS = st.characters(codec="utf-8", categories=("L", "M", "N", "P", "S"), exclude_characters="|\0")
NAMES = st.text(LETTERS, min_size=1, max_size=8)
NUMBERS = st.floats(width=32, allow_nan=False, allow_infinity=False)
KEPT = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def written(folder: Path, rows: list[list[str]]) -> Path:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    (folder / "any.csv").write_bytes(text.getvalue().encode("utf-8", "surrogatepass"))
    return folder / "any.csv"


@KEPT
@given(st.lists(st.sets(NAMES, max_size=3), max_size=8), NAMES)
def test_any_label_sets_come_back(tmp_path: Path, sets: list[set[str]], name: str):
    sets = [*sets, {name}]
    rows = [["path", "labels"], *([f"{i}.png", "|".join(names)] for i, names in enumerate(sets))]
    found = read_image_table({"": written(tmp_path, rows)})
    back = [{found.names[k] for k in np.flatnonzero(found.targets.get(i))} for i in range(len(sets))]
    assert back == sets
    assert found.paths == tuple(f"{i}.png" for i in range(len(sets)))


@KEPT
@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=8))
def test_any_numbers_come_back(tmp_path: Path, values: list[tuple[float, float]]):
    rows = [["a", "path", "b"], *([repr(a), f"{i}.png", repr(b)] for i, (a, b) in enumerate(values))]
    found = read_image_table({"": written(tmp_path, rows)})
    assert found.names == ("a", "b")
    assert [tuple(found.targets.get(i)) for i in range(len(values))] == values


@KEPT
@given(st.lists(NAMES, min_size=2, max_size=8, unique=True), st.integers(0, 1))
def test_any_classes_come_back(tmp_path: Path, names: list[str], repeated: int):
    names = [*names, names[repeated]]
    rows = [["label", "path"], *([name, f"{i}.png"] for i, name in enumerate(names))]
    found = read_image_table({"": written(tmp_path, rows)})
    assert [found.names[found.targets.get(i)] for i in range(len(names))] == names
    assert found.places[0].startswith("line 2 of ")


@KEPT
@given(st.binary(max_size=120), st.sampled_from([None, "classification", "multilabel", "regression"]))
def test_any_bytes_are_a_table_or_a_sentence(tmp_path: Path, content: bytes, task: str | None):
    (tmp_path / "any.csv").write_bytes(b"path," + content)
    try:
        assert read_image_table({"": tmp_path / "any.csv"}, task).paths
    except DataError as error:
        told = str(error)
    else:
        told = ""
    assert "\n" not in told


def test_a_label_that_every_image_has_is_a_note(photos: Path):
    cells = [f"{'test' if number % 4 == 0 else 'train'},all|{'odd' if number % 2 else 'even'}" for number in range(40)]
    notes = load(table(photos, "path,split,labels", cells)).report.notes
    assert "every train image has the label 'all', so its average precision there is always 100 %." in notes
    assert any(note.startswith("every test image has the label 'all', 'even'") for note in notes)


@pytest.mark.parametrize(
    ("header", "cell"), [("path,label", "caf\xe9"), ("path,labels", "a|caf\xe9"), ("path,\xe2ge", "1")]
)
def test_names_that_are_not_utf_8_are_refused(photos: Path, header: str, cell: str):
    table(photos, "", []).write_bytes(f"{header}\nimages/0.png,{cell}\nimages/1.png,3\n".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8: save the file as CSV UTF-8"):
        load(photos / "data.csv")
