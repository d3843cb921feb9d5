import numpy as np
import pytest

from effssl import InputError
from effssl.data.corruptions import open_corruptions


def write(folder, labels=(0, 1, 1), **images):
    folder.mkdir(exist_ok=True)
    np.save(folder / "labels.npy", np.array(labels))
    for name, each in images.items():
        np.save(folder / f"{name}.npy", each)
    return folder


def test_each_file_is_a_corruption(tmp_path):
    fog = np.arange(3 * 4 * 4 * 3, dtype=np.uint8).reshape(3, 4, 4, 3)
    labels, images = open_corruptions(write(tmp_path, snow=fog // 2, fog=fog), num_classes=2)
    assert labels.tolist() == [0, 1, 1] and labels.dtype == np.int64
    assert list(images) == ["fog", "snow"]
    np.testing.assert_array_equal(images["fog"], fog)


@pytest.mark.parametrize(
    ("labels", "images", "complaint"),
    [
        ((0, 1, 2), {"fog": np.zeros((3, 4, 4, 3), np.uint8)}, "2 classes"),
        ((0, -1, 1), {"fog": np.zeros((3, 4, 4, 3), np.uint8)}, "not a list of labels"),
        ((0.5, 0.0, 1.0), {"fog": np.zeros((3, 4, 4, 3), np.uint8)}, "not a list of labels"),
        ((0, 1, 1), {}, "no CORRUPTION.npy"),
        ((0, 1, 1), {"fog": np.zeros((2, 4, 4, 3), np.uint8)}, "not uint8 [3, height, width, 3]"),
        ((0, 1, 1), {"fog": np.zeros((3, 4, 4, 3), np.float32)}, "not uint8"),
    ],
)
def test_other_files_are_refused(tmp_path, labels, images, complaint):
    with pytest.raises(InputError) as error:
        open_corruptions(write(tmp_path, labels, **images), num_classes=2)
    assert complaint in str(error.value)


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        open_corruptions(tmp_path, num_classes=2)
    write(tmp_path, fog=np.zeros((3, 4, 4, 3), np.uint8))
    (tmp_path / "fog.npy").write_bytes(b"x" * 20)
    with pytest.raises(InputError, match=r"fog\.npy is damaged"):
        open_corruptions(tmp_path, num_classes=2)
