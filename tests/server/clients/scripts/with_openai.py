"""OpenAI's own SDK for Python, with nothing changed but its base URL and key."""

import base64

import openai
from cases import FAILING, KEY, POOR_KEY, PROMPT, URL, WRONG_KEY, Shown, picture, run, sent

QUICK = {"num_inference_steps": 4, "scheduler": "DDIM", "seed": 7}
MODEL = "gpt-image-1"  # any name is taken; many programs cannot change theirs


def client_with(key: str) -> openai.OpenAI:
    noting = openai.DefaultHttpxClient(event_hooks={"request": [sent.append]})
    return openai.OpenAI(base_url=f"{URL}/v1", api_key=key, http_client=noting)


client = client_with(KEY)


def edit(*images: str, mask: str | None = "hole.png", key: str = KEY, **options: object) -> Shown:
    """Edit a picture, or the first of several; our own fields go through ``extra_body``."""
    extra = QUICK | options.pop("extra", {})
    if mask is not None:
        options["mask"] = ("mask.png", picture(mask))
    files = [(name, picture(name)) for name in images or ("photo.png",)]
    image = files if len(files) > 1 else files[0]
    given = {"image": image, "prompt": PROMPT, "model": MODEL, **options}
    answer = client_with(key).images.edit(**given, extra_body=extra)
    files = [base64.b64decode(image.b64_json) for image in answer.data]
    facts = {"created": answer.created, "size": answer.size, "format": answer.output_format}
    return files, facts


def generate(**options: object) -> Shown:
    answer = client.images.generate(prompt=PROMPT, model=MODEL, size="128x96", extra_body=QUICK, **options)
    return [base64.b64decode(image.b64_json) for image in answer.data], {"size": answer.size}


def stream() -> Shown:
    """Edit with previews while it is painted."""
    events = list(
        client.images.edit(
            image=("image.png", picture("photo.png")),
            mask=("mask.png", picture("hole.png")),
            prompt=PROMPT,
            model=MODEL,
            stream=True,
            partial_images=2,
            extra_body=QUICK | {"num_inference_steps": 12},
        )
    )
    facts = {
        "types": [event.type for event in events],
        "indices": [event.partial_image_index for event in events[:-1]],
        "total_tokens": events[-1].usage.total_tokens,
    }
    return [base64.b64decode(event.b64_json) for event in events], facts


def models() -> Shown:
    names = [model.id for model in client.models.list()]
    return [], {"names": names, "retrieved": client.models.retrieve(names[0]).id}


def wrong_key() -> Shown:
    client_with(WRONG_KEY).models.list()
    return [], {}


def no_model() -> Shown:
    client.models.retrieve("no-such-model")
    return [], {}


def no_route() -> Shown:
    client.images.create_variation(image=("image.png", picture("photo.png")))
    return [], {}


run(
    {
        "hole": edit,
        "exact": lambda: edit(extra={"grow": 0, "feather": 0}),
        "white": lambda: edit(mask="white.png"),
        "own_alpha": lambda: edit("cutout.png", mask=None),
        "no_mask": lambda: edit(mask=None),
        "three": lambda: edit(n=3),
        "second": lambda: edit(extra={"seed": 8}),
        "webp": lambda: edit(output_format="webp"),
        "list": lambda: edit("photo.png", "white.png"),
        "generate": generate,
        "stream": stream,
        "models": models,
        "bad_field": lambda: edit(extra={"strength": 5}),
        "bad_n": lambda: edit(n=11),
        "bad_size": lambda: edit(mask="small.png"),
        "not_a_picture": lambda: edit("text.png"),
        "too_large": lambda: edit("large.png"),
        "no_model": no_model,
        "no_route": no_route,
        "wrong_key": wrong_key,
        "no_credits": lambda: edit(key=POOR_KEY),
        "failed": lambda: edit(prompt=FAILING),
    }
)
