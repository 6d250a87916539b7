"""The widgets of the docker: the settings of a request, and what is known of it."""

from __future__ import annotations

from typing import Any

from .painting import ENDED, State
from .qt import QtCore, QtGui, QtWidgets
from .settings import DEFAULTS

_PREVIEW = 128  # pixels


class Form(QtWidgets.QWidget):
    """The settings, by the names of the API's fields; and buttons, progress and a sentence."""

    def __init__(self) -> None:
        super().__init__()
        self._prompt = QtWidgets.QPlainTextEdit()
        self._prompt.setMaximumHeight(72)
        self._prompt.setPlaceholderText("What to paint in the selection")
        self._lines = {name: QtWidgets.QLineEdit() for name in ("negative_prompt", "seed", "url", "key")}
        self._lines["seed"].setPlaceholderText("random")
        self._lines["key"].setEchoMode(QtWidgets.QLineEdit.EchoMode.Password)
        self._lines["key"].setPlaceholderText("none")
        self._numbers = {"strength": _number(1, 99, " %"), "samples": _number(1, 4)}
        self._numbers["num_inference_steps"] = _number(20, 100)
        self._soft = QtWidgets.QCheckBox("Grey parts change less")
        self._soft.setToolTip("A feathered selection is repainted more where it is stronger.")
        self.paint = QtWidgets.QPushButton("Repaint")
        self.cancel = QtWidgets.QPushButton("Cancel")
        self._bar = QtWidgets.QProgressBar()
        self._preview, self._text = QtWidgets.QLabel(), QtWidgets.QLabel()
        self._text.setWordWrap(True)
        self._text.setTextInteractionFlags(QtCore.Qt.TextInteractionFlag.TextSelectableByMouse)
        self._text.setTextFormat(QtCore.Qt.TextFormat.PlainText)  # a server's sentence is not HTML
        self._arrange()
        self.show_state(State("done", "Select what to repaint, and say what to paint there."))

    def _arrange(self) -> None:
        column, rows = QtWidgets.QVBoxLayout(self), QtWidgets.QFormLayout()
        column.addLayout(rows)
        column.addStretch()  # what is left of the docker's height
        rows.addRow(self._prompt)
        rows.addRow("Avoid", self._lines["negative_prompt"])
        rows.addRow("Strength", self._numbers["strength"])
        rows.addRow("Variations", self._numbers["samples"])
        rows.addRow("Steps", self._numbers["num_inference_steps"])
        rows.addRow("Seed", self._lines["seed"])
        rows.addRow(self._soft)
        buttons = QtWidgets.QHBoxLayout()
        buttons.addWidget(self.paint)
        buttons.addWidget(self.cancel)
        rows.addRow(buttons)
        for widget in (self._bar, self._preview, self._text):
            rows.addRow(widget)
        rows.addRow("Server", self._lines["url"])
        rows.addRow("Key", self._lines["key"])

    def values(self) -> dict[str, str]:
        """Return every setting as text, by its name in ``DEFAULTS``."""
        found = {"prompt": self._prompt.toPlainText(), "soft": "true" if self._soft.isChecked() else ""}
        found.update((name, line.text()) for name, line in self._lines.items())
        found.update((name, str(number.value())) for name, number in self._numbers.items())
        return found

    def fill(self, values: dict[str, str]) -> None:
        """Show settings, as ``values`` returns them."""
        self._prompt.setPlainText(values["prompt"])
        self._soft.setChecked(bool(values["soft"]))
        for name, line in self._lines.items():
            line.setText(values[name])
        for name, number in self._numbers.items():
            number.setValue(int(values[name]) if values[name].isdecimal() else int(DEFAULTS[name]))

    def show_state(self, state: State) -> None:
        """Show how far a request is; it can be cancelled until it has ended."""
        ended = state.phase in ENDED
        self.paint.setEnabled(ended)
        self.cancel.setEnabled(not ended)
        self._bar.setVisible(not ended)
        self._bar.setMaximum(state.steps)  # 0 is a bar that moves without saying how far it is
        self._bar.setValue(state.step)
        self._text.setText(state.text)
        preview = QtGui.QPixmap()
        if state.preview and preview.loadFromData(state.preview):
            kept = QtCore.Qt.AspectRatioMode.KeepAspectRatio
            smooth = QtCore.Qt.TransformationMode.SmoothTransformation
            self._preview.setPixmap(preview.scaled(_PREVIEW, _PREVIEW, kept, smooth))
        self._preview.setVisible(bool(state.preview))


def _number(least: int, most: int, unit: str = "") -> Any:
    box = QtWidgets.QSpinBox()
    box.setRange(least, most)
    box.setSuffix(unit)
    return box
