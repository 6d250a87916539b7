"""A plugin for the tests: inside Krita it plays one scenario, writes a report, and quits Krita.

A scenario is a generator. It yields what it waits for, a function that becomes true; Krita's event loop
goes on meanwhile, as it does while a painter waits.
"""

import json
import os
import time
import traceback
from pathlib import Path

from krita import Krita
from PyQt5 import QtCore

from . import scenarios

_PATIENCE_S = 90
_LOOK_MS = 20


class _Player(QtCore.QObject):
    def __init__(self, name, given, out):
        super().__init__()
        self._report, self._out = {}, out
        self._play = getattr(scenarios, name)(scenarios.Stage(self._report, given, out))
        self._wait = scenarios.has_window
        self._deadline = time.monotonic() + _PATIENCE_S
        self._timer = QtCore.QTimer(self)
        self._timer.timeout.connect(self._go_on)
        self._timer.start(_LOOK_MS)

    def _go_on(self):
        try:
            if self._wait():
                self._wait = next(self._play)
                self._deadline = time.monotonic() + _PATIENCE_S
            elif time.monotonic() > self._deadline:
                raise TimeoutError("what the scenario waits for never came true")
        except StopIteration:
            self._end()
        except Exception:
            self._report["error"] = traceback.format_exc()
            self._end()

    def _end(self):
        self._timer.stop()
        (self._out / "report.json").write_text(json.dumps(self._report), "utf-8")
        for document in Krita.instance().documents():
            document.setModified(False)  # or Krita asks whether to save it, and waits
            document.close()
        Krita.instance().action("file_quit").trigger()


player = _Player(
    os.environ["SDXL_SCENARIO"], json.loads(os.environ["SDXL_GIVEN"]), Path(os.environ["SDXL_OUT"])
)
