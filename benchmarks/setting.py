"""When, on what and of which commit a benchmark's figures are."""

import datetime
import os
import platform
import subprocess
from pathlib import Path


def setting() -> dict[str, str]:
    """The date, the processor with its cores and load, the commit (and whether files were changed since), PyTorch."""
    import torch

    here = Path(__file__).parent
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True).stdout
    return {
        "date": datetime.date.today().isoformat(),
        "hardware": f"{processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "commit": commit.strip() or "unknown",
        "torch": torch.__version__,
    }


def processor() -> str:
    if (info := Path("/proc/cpuinfo")).is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
