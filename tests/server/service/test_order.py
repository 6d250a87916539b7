"""Pictures as clients send them: what the bytes are counts, and not what a label calls them."""

import base64
from urllib.parse import quote, quote_from_bytes

import pytest

from inpaint.errors import RequestError
from server.service.order import Url, decode_source, source
from tests.support.served import PHOTO

B64 = base64.b64encode(PHOTO).decode()
URL_SAFE = base64.urlsafe_b64encode(PHOTO).decode()
LABELS = (
    "image/png",
    "image/jpeg",
    "image/*",
    "application/octet-stream",
    "binary/octet-stream",
    "",
    "text/plain;charset=US-ASCII",
    'image/png;name="a b.png"',
    "IMAGE/PNG",
    "*/*",
)
FORMS = {
    **{f"data:{label}": f"data:{label};base64,{B64}" for label in LABELS},
    "DATA: in capitals": f"DATA:image/png;BASE64,{B64}",
    "url-safe": f"data:image/png;base64,{URL_SAFE}",
    "url-safe without padding": URL_SAFE.rstrip("="),
    "percent-encoded base64": f"data:image/png;base64,{quote(B64, safe='')}",
    "percent-encoded in small letters": quote(B64, safe="").replace("%2B", "%2b").replace("%2F", "%2f"),
    "percent-encoded bytes": f"data:image/png,{quote_from_bytes(PHOTO, safe='')}",
    "base64, alone": f"base64,{B64}",
    "white space around": f"  \n data:image/png;base64, {B64} \r\n",
    "lines of 76": "\r\n".join(B64[at : at + 76] for at in range(0, len(B64), 76)),
    "quoted": f'"data:image/png;base64,{B64}"',
    "quoted base64": f"'{B64}'",
    "plain": B64,
}


@pytest.mark.parametrize("form", FORMS)
def test_the_bytes_decide_and_not_the_label(form: str) -> None:
    """A browser's FileReader writes application/octet-stream for an ending it does not know."""
    assert B64 != URL_SAFE, "this picture shows the difference"
    sent = source("image", FORMS[form])
    assert isinstance(sent, bytes)
    assert decode_source("image", sent) == PHOTO


@pytest.mark.parametrize("quotes", ['"{}"', "'{}'"])
def test_a_quoted_url_is_a_url(quotes: str) -> None:
    """JSON within JSON leaves quotes."""
    found = source("image", quotes.format("https://example.com/a.png"))
    assert isinstance(found, Url)
    assert found.text == "https://example.com/a.png"


WRONG = {
    "data:image/png;base64": "must be a data: URI such as data:image/png;base64,… with a picture",
    "data:"
    + "x" * 2000
    + ";base64,"
    + B64: "must be a data: URI such as data:image/png;base64,… with a picture",
    "data:image/png," + "%41" * 300_001: "must be a data: URI in base64",
    "data:image/png;base64,%%%": "is neither a picture's URL nor valid base64",
    "no base64!": "is neither a picture's URL nor valid base64",
    "base64,": "",
}


@pytest.mark.parametrize("text", WRONG, ids=lambda text: text[:24])
def test_what_is_no_picture_in_any_form_is_one_sentence(text: str) -> None:
    """And of 300,000 escapes no objects are made."""
    if not WRONG[text]:
        assert decode_source("mask", text.encode()) == b""  # the decoder says that it is empty
        return
    with pytest.raises(RequestError) as caught:
        decode_source("mask", text.encode())
    assert (caught.value.field, caught.value.problem) == ("mask", WRONG[text])


@pytest.mark.parametrize(
    "text", [b"<svg xmlns='x'/>", b"version https://git-lfs.github.com/spec/v1", b'{"a": 1}']
)
def test_text_that_is_a_file_is_left_to_the_decoder(text: bytes) -> None:
    """Which names it, instead of calling it bad base64."""
    assert decode_source("image", text) == text
