"""What `devices.py` holds, in a process of its own: the pretended device is torch's for as long as a process lives."""

import subprocess
import sys
from pathlib import Path


def test_every_method_optimizer_and_selector_works_on_another_device() -> None:
    file = Path(__file__).with_name("devices.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5_000:] + done.stderr[-1_000:]
    assert " passed" in done.stdout
