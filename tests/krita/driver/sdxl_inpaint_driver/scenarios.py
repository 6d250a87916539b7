"""What a painter does with the plugin, by its own actions; runs inside Krita, in its Python."""

from krita import Krita, Selection


def has_window():
    """Krita is up: a window, with the plugin's docker in it."""
    return any(docker.windowTitle() == "SDXL Inpaint" for docker in Krita.instance().dockers())


class Stage:
    """What scenarios use: the plugin's form, the open document, and the report for the test."""

    def __init__(self, report, given, out):
        self.report, self.given, self.out = report, given, out
        self.document = None

    @property
    def docker(self):
        return next(one for one in Krita.instance().dockers() if one.windowTitle() == "SDXL Inpaint")

    @property
    def form(self):
        return self.docker.form

    @property
    def text(self):
        """The sentence in the docker."""
        return self.form._text.text()

    def show(self, document):
        """Put a document into the window."""
        document.setBatchmode(True)
        Krita.instance().activeWindow().addView(document)
        self.document = document

    def open(self, select=True):
        """Open the picture of the test, and select its box."""
        self.show(Krita.instance().openDocument(self.given["picture"]))
        if select:
            self.select()

    def select(self):
        selection = Selection()
        selection.select(*self.given["box"], 255)
        self.document.setSelection(selection)

    def set(self, **values):
        self.form.fill({**self.form.values(), **self.given["form"], **values})

    def trigger(self, name):
        Krita.instance().action(f"sdxl_inpaint_{name}").trigger()

    def idle(self):
        return self.form.paint.isEnabled()

    def keep(self, name):
        """Save what the painter sees, as a PNG, and note the layers."""
        self.document.refreshProjection()
        self.document.waitForDone()
        picture = self.document.projection(0, 0, self.document.width(), self.document.height())
        picture.save(str(self.out / f"{name}.png"))
        self.report[name] = [_described(node) for node in self.document.topLevelNodes()]


def _described(node):
    box = node.bounds()
    return {
        "name": node.name(),
        "type": node.type(),
        "visible": node.visible(),
        "box": [box.x(), box.y(), box.width(), box.height()],
        "children": [_described(child) for child in node.childNodes()],
    }


def paints(stage):
    """Select, paint, undo, redo."""
    stage.open()
    yield lambda: Krita.instance().activeDocument() is not None
    stage.set()
    stage.keep("before")
    stage.trigger("paint")
    stage.report["busy"] = not stage.idle()
    yield stage.idle
    stage.report["text"] = stage.text
    stage.keep("painted")
    Krita.instance().activeWindow().qwindow().grab().save(str(stage.out / "window.png"))
    stage.docker.grab().save(str(stage.out / "docker.png"))
    Krita.instance().action("edit_undo").trigger()
    yield lambda: len(stage.document.topLevelNodes()) == len(stage.report["before"])
    stage.keep("undone")
    Krita.instance().action("edit_redo").trigger()
    yield lambda: len(stage.document.topLevelNodes()) == len(stage.report["painted"])
    stage.keep("redone")


def cancels(stage):
    """Cancel while it is painted; then paint, as if nothing had been."""
    stage.open()
    yield lambda: Krita.instance().activeDocument() is not None
    stage.set(num_inference_steps="100", samples="4")
    stage.trigger("paint")
    yield lambda: stage.text.startswith("Painting: step")
    stage.report["cancel"] = stage.form.cancel.isEnabled()
    stage.docker.grab().save(str(stage.out / "docker.png"))
    stage.trigger("cancel")
    stage.report["text"], stage.report["idle"] = stage.text, stage.idle()
    stage.keep("cancelled")
    stage.set(num_inference_steps="20")
    stage.trigger("paint")
    yield stage.idle
    stage.report["then"] = stage.text
    stage.keep("painted")


def explains(stage):
    """Everything that a painter can get wrong, one after the other."""
    said = stage.report["said"] = []
    stage.set()
    stage.trigger("paint")
    said.append(stage.text)
    stage.open(select=False)
    yield lambda: Krita.instance().activeDocument() is not None
    stage.trigger("paint")
    said.append(stage.text)
    stage.select()
    for values in stage.given["wrong"]:
        stage.set(**values)
        stage.trigger("paint")
        yield stage.idle
        said.append(stage.text)
    stage.keep("after")


def other_depths(stage):
    """Paint in documents of 16 bits and of CMYK; each has the layer in the place of the selection."""
    for model, depth, profile in (("RGBA", "U16", ""), ("CMYKA", "U8", "")):
        document = Krita.instance().createDocument(320, 240, model, model, depth, profile, 72.0)
        stage.show(document)
        yield lambda: Krita.instance().activeDocument() is not None
        stage.select()
        stage.set()
        stage.keep(f"{model}-before")
        stage.trigger("paint")
        yield stage.idle
        stage.report[f"{model}-text"] = stage.text
        stage.keep(f"{model}-painted")
        document.setModified(False)
        Krita.instance().activeWindow().activeView().setVisible()
        document.close()


def remembers(stage):
    """The docker of a new start shows what was entered before."""
    stage.report["values"] = stage.form.values()
    yield lambda: True


def closes(stage):
    """Close the picture while it is painted."""
    stage.open()
    yield lambda: Krita.instance().activeDocument() is not None
    stage.set()
    stage.trigger("paint")
    stage.document.setModified(False)
    stage.document.close()
    yield stage.idle
    stage.report["text"] = stage.text


def leaves(stage):
    """Quit Krita while it is painted."""
    stage.open()
    yield lambda: Krita.instance().activeDocument() is not None
    stage.set(num_inference_steps="100", samples="4")
    stage.trigger("paint")
    yield lambda: stage.text.startswith("Painting: step")
