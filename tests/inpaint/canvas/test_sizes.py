"""The sizes at which boxes are painted: the best one for a shape, and the few usual ones."""

import pytest

from inpaint.canvas.sizes import auto_size, best_size, usual_sizes, widened


def test_the_best_size_has_native_area_and_the_boxs_shape() -> None:
    """The model paints best at its native area, and memory plans count on it."""
    for w in range(100, 1700, 37):
        width, height = best_size(w, 800)
        assert 0.75 < width * height / 1024**2 < 1.3
        assert abs(width / height / (w / 800) - 1) < 0.06
    assert best_size(333, 333) == (1024, 1024)
    assert best_size(512, 512, 512) == (512, 512)
    assert best_size(1152, 896) == (1152, 896)
    assert best_size(512, 8192) == (256, 4096)
    assert best_size(100, 100, 64) == (64, 64)


@pytest.mark.parametrize("native", [512, 768, 1024])
def test_usual_sizes_fit_the_model(native: int) -> None:
    """Five distinct sizes of about the native area, wide ones and their upright counterparts."""
    sizes = usual_sizes(native)
    assert sizes[0] == (native, native), "compiled first, before anybody has asked for anything"
    assert len(set(sizes)) == 5
    for w, h in sizes:
        assert w % 64 == h % 64 == 0
        assert (h, w) in sizes
        assert 0.85 < w * h / native**2 < 1.1


def test_a_model_too_small_for_five_sizes_is_left_as_it_was() -> None:
    """In steps of 64 the demo model has three of the five, and would squeeze pictures by up to a fifth."""
    assert usual_sizes(128) == ()
    assert auto_size(700, 350, 128) == best_size(700, 350, 128)
    assert widened((100, 60), (1000, 1000), 128) == (100, 67)


def test_a_box_is_widened_rather_than_squeezed() -> None:
    """Circles stay round wherever the picture has room for the wider box."""
    assert widened((600, 500), (3000, 2000)) == (643, 500)
    assert auto_size(643, 500) == (1152, 896)
    assert widened((700, 690), (3000, 2000)) == (700, 700)
    assert widened((900, 300), (3000, 2000)) == (900, 514)


def test_a_box_is_squeezed_a_little_where_the_picture_ends() -> None:
    """A picture of 16:9 that is repainted whole is 1.6 % off a usual size: not worth a size of its own."""
    assert widened((1920, 1080), (1920, 1080)) == (1920, 1080)
    assert auto_size(1920, 1080) == (1344, 768)


def test_a_box_that_fits_no_usual_size_gets_one_of_its_own() -> None:
    """A panorama repainted whole would be squeezed to a third, and a 3:2 photo by a sixth."""
    for w, h in ((1536, 1024), (4000, 1000), (300, 2000)):
        assert widened((w, h), (w, h)) == (w, h)
        assert auto_size(w, h) == best_size(w, h)
        assert auto_size(w, h) not in usual_sizes()
