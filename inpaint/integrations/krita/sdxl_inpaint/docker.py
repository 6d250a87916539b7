"""The docker and the two actions: from the selection to a request, and from its answer to layers."""

from __future__ import annotations

from typing import Any

from krita import DockWidget, DockWidgetFactory, DockWidgetFactoryBase, Extension, Krita

from .canvas import Cut, cut, lay
from .client import Problem, Server
from .form import Form
from .painting import ENDED, Painting, State
from .qt import QtCore, QtWidgets
from .settings import DEFAULTS, request_fields

NAME = "sdxl_inpaint"
_LOOK_MS = 100


class Docker(DockWidget):
    """The docker of one window; it has one request at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.setWindowTitle("SDXL Inpaint")
        self.form = Form()
        self.form.fill(
            {name: Krita.instance().readSetting(NAME, name, value) for name, value in DEFAULTS.items()}
        )
        self.form.paint.clicked.connect(self.paint)
        self.form.cancel.clicked.connect(self.cancel)
        around = QtWidgets.QScrollArea()  # dockers are often lower than what they hold
        around.setWidgetResizable(True)
        around.setWidget(self.form)
        self.setWidget(around)
        self._job: tuple[Painting, Any, Cut, str] | None = None
        self._timer = QtCore.QTimer(self)
        self._timer.setInterval(_LOOK_MS)
        self._timer.timeout.connect(self._look)

    def canvasChanged(self, canvas: Any) -> None:  # noqa: N802 - Krita's name
        """Do nothing: the document is asked for when there is something to paint."""

    def paint(self) -> None:
        """Send the selection of the open document, unless a request is on its way."""
        if self._job is not None:
            return
        values = self.form.values()
        for name, value in values.items():
            Krita.instance().writeSetting(NAME, name, value)
        try:
            document = Krita.instance().activeDocument()
            if document is None:
                raise Problem("Open a picture first.")
            part = cut(document)
            server = Server(values["url"], values["key"])
            fields = {**request_fields(values), "image": part.picture(), "mask": part.mask()}
        except Problem as problem:
            self.form.show_state(State("failed", str(problem)))
            return
        self._job = Painting(server, fields).start(), document, part, values["prompt"]
        self._timer.start()
        self._look()

    def cancel(self) -> None:
        """Cancel the request on its way."""
        if self._job is not None:
            self._job[0].cancel()
            self._look()

    def _look(self) -> None:
        """Show the request's state; when it is painted, add its layers."""
        if self._job is None:
            return
        painting, document, part, prompt = self._job
        state = painting.state
        if state.phase in ENDED:
            self._timer.stop()
            self._job = None
        if state.phase == "done":
            state = _laid(document, part, state, prompt)
        self.form.show_state(state)


def _laid(document: Any, part: Cut, state: State, prompt: str) -> State:
    """Add the pictures to their document, and return what to say."""
    if document not in Krita.instance().documents():
        return State("failed", "The picture was closed before its layer came.")
    try:
        lay(document, part, state.pictures, prompt)
    except Problem as problem:
        return State("failed", str(problem))
    return state


class Actions(Extension):
    """The plugin's entries in the menu Tools → Scripts, which can have shortcuts."""

    def setup(self) -> None:
        """Do nothing before there is a window."""

    def createActions(self, window: Any) -> None:  # noqa: N802 - Krita's name
        """Add the actions to a window."""
        for name, text in (("paint", "Repaint the selection"), ("cancel", "Cancel the repainting")):
            action = window.createAction(f"{NAME}_{name}", text, "tools/scripts")
            action.triggered.connect(lambda *_, name=name: getattr(_docker(), name)())


def _docker() -> Any:
    """Return the docker of the window in front."""
    return next(docker for docker in Krita.instance().dockers() if isinstance(docker, Docker))


def register() -> None:
    """Give Krita the docker and the actions."""
    application = Krita.instance()
    place = DockWidgetFactoryBase.DockPosition.DockRight
    application.addDockWidgetFactory(DockWidgetFactory(NAME, place, Docker))
    application.addExtension(Actions(application))
