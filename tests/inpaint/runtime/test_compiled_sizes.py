"""The sizes that are compiled, and their order, over a restart."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from inpaint import Engine, InpaintRequest
from inpaint.batching.cost_profile import Profile
from inpaint.batching.work import Bucket
from inpaint.model.load import Model
from inpaint.runtime.calibrate import made_for
from inpaint.runtime.compiled_sizes import compiled_sizes, save_usage

SQUARE, TALL = Bucket(64, 64), Bucket(72, 56)


def sized(model: Model, native: int) -> Model:
    """The tiny model as if it had been trained on this square."""
    config = SimpleNamespace(**{**dict(model.unet.config), "sample_size": native // 8})
    return replace(model, unet=SimpleNamespace(config=config))


def test_a_first_start_compiles_five_sizes_and_the_native_square_first(model: Model, tmp_path: Path) -> None:
    """They are those that pictures are painted at."""
    big = sized(model, 512)
    for folder in (None, tmp_path):
        buckets, often = compiled_sizes(big, made_for(big), folder)
        assert (len(buckets), buckets[0], often) == (5, SQUARE, 1)
    assert compiled_sizes(model, made_for(model), None) == ([Bucket(16, 16)], 1)


def test_a_restart_compiles_what_was_used_before_it(
    model: Model, request_for: Callable[..., InpaintRequest], tmp_path: Path
) -> None:
    """A real engine counts its requests and keeps the counts when it is closed."""
    profile = Profile(made_for(model), max_slots=16)
    profile.survey(Bucket(16, 16), {1: 0.1, 2: 0.2}, encode_s=0.1, decode_s=0.1)
    profile.save(tmp_path / profile.made_for.file_name)
    measured = profile.to_json()["buckets"]
    with Engine(model, profile=profile, profiles=tmp_path) as engine:
        for _ in range(3):
            engine.paint(request_for(num_inference_steps=2))
    kept = Profile.load(tmp_path / profile.made_for.file_name, profile.made_for)
    assert kept is not None
    assert kept.usage.to_rows() == [[16, 16, 3]]
    assert kept.to_json()["buckets"] == measured, (
        "what was measured before the first request is the next start's"
    )


def test_frequent_sizes_move_to_the_front(model: Model, tmp_path: Path) -> None:
    """A studio of portraits waits for the upright size, not for the square."""
    big = sized(model, 512)
    profile = Profile(made_for(big))
    profile.save(tmp_path / profile.made_for.file_name)
    for bucket in [TALL] * 5 + [SQUARE]:
        profile.usage.add(bucket)
    save_usage(profile, tmp_path)
    buckets, often = compiled_sizes(big, made_for(big), tmp_path)
    assert (buckets[:2], often) == ([TALL, SQUARE], 2)


def test_without_a_profile_nothing_is_kept(model: Model, tmp_path: Path) -> None:
    """A folder that was deleted meanwhile, or a damaged file, must not fail a shutdown."""
    profile = Profile(made_for(model))
    save_usage(profile, tmp_path / "gone")
    assert not (tmp_path / "gone").exists()
    (tmp_path / profile.made_for.file_name).write_text("{")
    save_usage(profile, tmp_path)
    assert (tmp_path / profile.made_for.file_name).read_text() == "{"
