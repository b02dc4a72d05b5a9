"""
The real server over an engine that fails where the variable FAULT says: `uvicorn tests.faulty_app:app`.

This is the only door for faults, and no start of the product leads through it.
"""

from __future__ import annotations

import os
import sys
import time

from service.app import create_app
from service.settings import from_environment

if os.environ["FAULT"] == "clock":  # in this process, too, which may not import the engine
    real = time.time
    time.time = lambda: real() + (3600 if int(real() * 20) % 2 else -3600)

app = create_app(from_environment(), engine=(sys.executable, "-m", "tests.faulty_engine"))
