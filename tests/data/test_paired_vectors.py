import numpy as np
import pytest

from effssl import InputError
from effssl.data.paired_vectors import read_vectors

NAMES = ["b.png", "a/c.png", "d.png"]
VECTORS = np.arange(12, dtype=np.float64).reshape(3, 4)


def npz(folder, **arrays):
    file = folder / "vectors.npz"
    np.savez(file, **{"names": np.array(NAMES), "representations": VECTORS} | arrays)
    return file


def test_vectors_come_in_the_order_of_the_images_names(tmp_path):
    vectors = read_vectors(npz(tmp_path), ["d.png", "b.png"])
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, VECTORS[[2, 0]])


def test_a_parquet_is_read_as_a_npz_is(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    column = pa.FixedSizeListArray.from_arrays(pa.array(VECTORS.ravel()), 4)
    parquet.write_table(pa.table({"name": NAMES, "representation": column}), tmp_path / "v.parquet")
    np.testing.assert_array_equal(read_vectors(tmp_path / "v.parquet", NAMES[::-1]), VECTORS[::-1])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"names": np.array(NAMES[:2])}, r"a vector for each name, not 2 names, .* \[3, 4\]"),
        ({"representations": VECTORS[0]}, "a vector for each name"),
        ({"representations": VECTORS * np.nan}, "not finite"),
        (
            {"names": np.array(["x", "y", "d.png"])},
            "no vector of 2 of 3 images: b.png, a/c.png; it",
        ),
        ({"names": np.array([None] * 3)}, "must be a .npz of names"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, arrays, message):
    with pytest.raises(InputError, match=message) as error:
        read_vectors(npz(tmp_path, **arrays), NAMES)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["v.npz", "v.parquet"])
def test_files_that_are_damaged_or_not_there(tmp_path, name):
    with pytest.raises(InputError, match="no such file"):
        read_vectors(tmp_path / name, NAMES)
    (tmp_path / name).write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"must be a \.npz of names"):
        read_vectors(tmp_path / name, NAMES)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([[1.0, 2.0], [3.0, 4.0, 5.0, 6.0], [1.0, 2.0, 3.0]], "of one width, not 2, 4, 3"),
        ([[1.0, 2.0], None, [3.0, 4.0]], "of one width, not 2, None"),
        ([1.0, 2.0, 3.0], "is double, not lists of numbers"),
        ([["1", "2"]] * 3, "are object, not numbers"),
        ([[1.0, None]] * 3, "not finite"),
    ],
)
def test_columns_that_are_no_vectors_of_one_width_are_one_line(tmp_path, column, message):
    """Lists of 2 and 4 numbers would make two of 3."""
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pa.table({"name": NAMES, "representation": column}), tmp_path / "v.parquet")
    with pytest.raises(InputError, match=message) as error:
        read_vectors(tmp_path / "v.parquet", NAMES)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (None, "one array without names"),
        ({"names": np.array(NAMES)[:, None]}, r"names are \[3, 1\]"),
        ({"representations": np.array([["a", "b"]] * 3)}, "are <U1, not numbers"),
    ],
)
def test_arrays_of_other_kinds_are_one_line(tmp_path, arrays, message):
    file = tmp_path / "vectors.npy"
    if arrays is None:
        np.save(file, VECTORS)
    else:
        file = npz(tmp_path, **arrays)
    with pytest.raises(InputError, match=message) as error:
        read_vectors(file, NAMES)
    assert "\n" not in str(error.value)
