"""A picture as a density: points where it is dark, upright, as many as the darkness says."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from advect.data import read_table
from advect.data.silhouette import POINTS, require_picture
from advect.errors import DataError

CAT = Path(__file__).parents[2] / "examples" / "cat.png"


def drawn(pixels, tmp_path):
    Image.fromarray(np.asarray(pixels, np.uint8)).save(tmp_path / "a.png")
    return np.stack(read_table(tmp_path / "a.png").columns, 1)


def test_points_are_as_dense_as_the_picture_is_dark(tmp_path):
    """Four pixels of darkness 1, ½, 0 and ¼ of the full: shares 4/7, 2/7, 0 and 1/7, each uniform inside its pixel."""
    points = drawn([[0, 127.5], [255, 191.25]], tmp_path)
    assert len(points) == POINTS
    darkness = np.array([[255 - 0, 255 - 127], [0, 255 - 191]]) / 255
    for row, column in np.ndindex(2, 2):
        inside = (
            (points[:, 0] >= column - 1) & (points[:, 0] < column) & (points[:, 1] < 1 - row) & (points[:, 1] >= -row)
        )
        share = darkness[row, column] / darkness.sum()
        # Counts are binomial: five standard deviations.
        assert abs(inside.mean() - share) <= 5 * np.sqrt(share * (1 - share) / POINTS)
        if share:
            middle = points[inside] - [column - 0.5, 0.5 - row]
            assert np.abs(middle).max() <= 0.5
            assert np.abs(middle.mean(0)).max() < 5 * np.sqrt(1 / 12 / inside.sum())


def test_the_longer_side_is_from_minus_one_to_one_and_y_points_up(tmp_path):
    pixels = np.full((20, 40), 255)
    pixels[:2] = 0  # a bar along the upper edge
    points = drawn(pixels, tmp_path)
    assert points[:, 0].min() >= -1
    assert points[:, 0].max() <= 1
    np.testing.assert_allclose([points[:, 1].min(), points[:, 1].max()], [0.4, 0.5], atol=1e-3)
    np.testing.assert_array_equal(points, drawn(pixels, tmp_path))  # the same ones each time


def test_paper_and_transparency_hold_no_point(tmp_path):
    pixels = np.zeros((8, 8, 4))
    pixels[2:4, 2:4] = [0, 0, 0, 255]
    points = drawn(pixels, tmp_path)
    assert np.abs(points - [-0.25, 0.25]).max() <= 0.25


def test_the_cat_of_the_project_is_read_with_a_note():
    table = read_table(CAT)
    assert table.names == ("x", "y")
    assert "darkness" in table.notes[0]
    ears = np.stack(table.columns, 1)
    assert ears[:, 1].max() > 0.8


def test_refusals(tmp_path):
    with pytest.raises(DataError, match="all white"):
        drawn(np.full((4, 4), 255), tmp_path)
    (tmp_path / "broken.png").write_bytes(b"no picture at all")
    with pytest.raises(DataError, match="cannot be read"):
        read_table(tmp_path / "broken.png")
    with pytest.raises(DataError, match="only a picture"):
        require_picture("houses.csv")
    require_picture("CAT.PNG")
