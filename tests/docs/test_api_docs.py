"""The page that clients of the HTTP API read."""

from server.settings import Settings
from tools.docs.api_docs import PAGE, page


def test_the_reference_is_what_the_server_describes() -> None:
    """A field or route that is not on the page does not exist for its readers (``tools.docs.api_docs``)."""
    assert PAGE.read_text("utf-8") == page()


def test_every_variable_it_names_exists() -> None:
    """An operator copies them from here."""
    words = {word.partition("=")[0] for word in PAGE.read_text("utf-8").replace("`", " ").split()}
    named = {word.rstrip(".,):").removeprefix("INPAINT_").lower() for word in words if "INPAINT_" in word}
    named = {name.lstrip("(").removeprefix("inpaint_") for name in named}
    assert len(named) >= 5
    assert named <= set(Settings.model_fields)
