"""The A1111 dialect through unmodified clients: webuiapi, sd-backend-client and sd-api-mcp's."""

import pytest

from tests.support.clients import SIZE, Show, assert_generated, assert_painted, assert_repainted, assert_same

pytest_plugins = ["tests.support.client_fixtures"]
pytestmark = [pytest.mark.slow, pytest.mark.gate]

ALL = ("webuiapi", "sd-backend-client", "sd-api-mcp")
REACH = 11  # mask_blur is 4 unless given: a Gaussian that ends 10 pixels from the mask


@pytest.mark.parametrize("client", ALL)
def test_only_the_masked_part_changes(show: Show, client: str) -> None:
    """With the clients' own defaults: only masked, a blur of 4 pixels."""
    assert_painted(show(client).picture("white"), REACH)


@pytest.mark.parametrize(
    ("client", "case"),
    [*((client, case) for client in ALL for case in ("exact", "drawn")),
     ("webuiapi", "inverted"), ("sd-api-mcp", "inverted")],
)  # fmt: skip
def test_every_pixel_outside_the_mask_is_kept(show: Show, client: str, case: str) -> None:
    """Without blur, to the mask's very edge: white on black, a drawn RGBA layer, black on white inverted."""
    assert_painted(show(client).picture(case))


@pytest.mark.parametrize("client", ALL)
def test_without_a_mask_the_whole_picture_is_repainted(show: Show, client: str) -> None:
    """Plain img2img."""
    assert_repainted(show(client).picture("no_mask"))


@pytest.mark.parametrize("client", ALL)
def test_a_batch_has_seeds_in_a_row(show: Show, client: str) -> None:
    """The second of three with seed 7 is the one of seed 8, as in A1111."""
    pictures = show(client).pictures("three")
    assert len({picture.tobytes() for picture in pictures}) == 3
    assert_same(pictures[0], show(client).picture("white"))
    assert_same(pictures[1], show(client).picture("second"))
    if client != "sd-api-mcp":  # which reads no seeds
        assert show(client).facts("three")["seeds"] == [7, 8, 9]


@pytest.mark.parametrize("client", ALL)
def test_text_becomes_a_picture_of_the_size(show: Show, client: str) -> None:
    """The demo model knows red circles."""
    assert_generated(show(client).picture("generate"))


def test_iterations_and_batches_multiply(show: Show) -> None:
    """Two pictures three times are six, in the order of their seeds."""
    assert show("webuiapi").facts("six")["seeds"] == [7, 8, 9, 10, 11, 12]
    for picture in show("webuiapi").pictures("six"):
        assert_painted(picture)


def test_the_whole_picture_is_painted_at_the_size_asked_for(show: Show) -> None:
    """The model sees all of it, and the pixels far from the mask are kept nevertheless."""
    assert show("webuiapi").picture("whole").size == SIZE
    assert_painted(show("webuiapi").picture("whole"), REACH)


def test_settings_are_in_the_answer_and_in_the_file(show: Show) -> None:
    """Photoshop and GIMP read the seed of a picture from its text."""
    facts = show("webuiapi").facts("three")
    for number, text in enumerate(facts["text"]):
        assert f"Seed: {7 + number}" in text
        assert text.splitlines()[-1].startswith("Steps: 4")
    assert facts["infotexts"] == facts["text"]
    assert facts["sampler"] == "DDIM"
    assert {"denoising_strength", "mask_blur"} <= set(facts["parameters"])
    assert "Seed: 7" in show("webuiapi").facts("png_info")["info"]


def test_soft_inpainting_is_soft(show: Show) -> None:
    """The blurred mask is a strength, so the picture is another one; far from the mask it is kept."""
    soft = show("webuiapi").picture("soft")
    assert_painted(soft, REACH)
    assert soft.tobytes() != show("webuiapi").picture("white").tobytes()


def assert_progressed(progress: list[float]) -> None:
    assert all(0 <= value <= 1 for value in progress)
    between = [value for value in progress if 0 < value < 1]
    assert len(set(between)) > 2, f"it never showed how far it was: {progress}"
    assert between == sorted(between)


def test_progress_rises_and_shows_previews(show: Show) -> None:
    """And when nothing is painted it is 0, with no job: clients wait for both."""
    facts = show("webuiapi").facts("progress")
    assert_progressed(facts["progress"])
    assert facts["previews"] > 0
    assert set(facts["others"]) == {0}, "another key's requests are nobody else's business"
    assert facts["idle"]["progress"] == 0
    assert facts["idle"]["state"]["job_count"] == 0
    assert_painted(show("webuiapi").picture("progress"), REACH)


def test_a_job_of_sd_backend_client_progresses(show: Show) -> None:
    """IntraPaint polls a handle of it, and shows a bar."""
    facts = show("sd-backend-client").facts("progress")
    assert_progressed([value for value in facts["progress"] if value is not None])
    assert "ACTIVE" in facts["states"]
    assert facts["last"] == "FINISHED"


def test_an_interrupted_request_is_no_error(show: Show) -> None:
    """A1111 answers it with the pictures that are done, which are none here."""
    facts = show("webuiapi").facts("interrupt")
    assert facts["answer"] == {}
    assert show("webuiapi").pictures("interrupt") == []


def test_a_cancelled_job_is_cancelled(show: Show) -> None:
    """For IntraPaint, too."""
    facts = show("sd-backend-client").facts("cancel")
    assert facts == {"accepted": True, "last": "CANCELLED"}


def test_menus_are_filled(show: Show) -> None:
    """Every list that a client asks for when it starts; each checks the types in it."""
    lists = show("webuiapi").facts("lists")
    assert {"Euler a", "DDIM", "DPM++ 2M"} <= {sampler["name"] for sampler in lists["samplers"]}
    assert {"automatic", "karras"} <= {scheduler["name"].lower() for scheduler in lists["schedulers"]}
    assert lists["options"]["sd_model_checkpoint"] == lists["sd_models"][0]["title"]
    assert len(lists["upscalers"]) > 1
    menus = show("sd-backend-client").facts("lists")
    assert menus["kind"] == "A1111Webservice"  # and not ComfyUI
    assert menus["checkpoints"]
    assert menus["capabilities"]["scheduler"] is True
    assert menus["capabilities"]["controlnet"] is False
    assert show("sd-api-mcp").facts("lists")["sd_models"] == [lists["sd_models"][0]["title"]]


def test_calls_that_do_nothing_are_answered(show: Show) -> None:
    """Clients parse each answer as JSON."""
    assert len(show("webuiapi").facts("quiet")["answers"]) == 3


WEBUIAPI = [
    ("bad_field", 422, "denoising_strength"),
    ("bad_steps", 422, "steps"),
    ("empty_mask", 422, "mask"),
    ("no_script", 422, "X/Y/Z plot"),
    ("no_route", 404, "Not Found"),
    ("wrong_key", 401, ""),
    ("no_credits", 402, "credits"),
    ("failed", 500, ""),
]


@pytest.mark.parametrize(("case", "status", "sentence"), WEBUIAPI)
def test_webuiapi_raises_status_and_sentence(show: Show, case: str, status: int, sentence: str) -> None:
    """Its one class holds the status, and our answer with the sentence in ``detail``."""
    error = show("webuiapi").error(case)
    assert "RuntimeError" in error["classes"]
    assert str(status) in error["text"]
    assert sentence in error["text"]


@pytest.mark.parametrize(
    ("case", "name", "status"),
    [
        ("empty_mask", "GenerationError", 422),
        ("no_script", "GenerationError", 422),
        ("no_route", "GenerationError", 404),
        ("wrong_key", "AuthError", 401),
    ],
)
def test_sd_backend_client_raises_its_own_errors(show: Show, case: str, name: str, status: int) -> None:
    """A program that uses it tells a refused login from a failed job."""
    error = show("sd-backend-client").error(case)
    assert name in error["classes"]
    assert str(status) in error["text"]


@pytest.mark.parametrize(
    ("case", "status"), [("bad_field", 422), ("not_a_picture", 422), ("no_route", 404), ("wrong_key", 401)]
)
def test_sd_api_mcp_raises_its_own_error(show: Show, case: str, status: int) -> None:
    """It becomes the tool's error, which the model reads."""
    error = show("sd-api-mcp").error(case)
    assert "SDAPIError" in error["classes"]
    assert str(status) in error["text"]
