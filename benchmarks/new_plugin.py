"""Times the way from nothing to an installed method of one's own that passes its tests.

    python benchmarks/new_plugin.py        or, with a file that has a method: python benchmarks/new_plugin.py --from ./my_kd.py

Each command runs in a process of its own, in an empty folder and a fresh virtual environment that sees the packages installed
here, so that nothing is downloaded. What takes time is mostly the import of torch.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

OFFLINE = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]


def environment(folder: Path) -> Path:
    """A virtual environment in a folder, which also sees what is installed here; its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/*/site-packages")
    (site / "outside.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")) + "\n")
    return folder / "bin" / "python"


def main() -> None:
    """Time the three commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="file", type=Path, help="a Python file with a method; by default, the example")
    file = parser.parse_args().file
    new = ["new-plugin", "my-own", *(["--from", str(file.resolve())] if file else [])]
    with tempfile.TemporaryDirectory() as folder:
        python, total = environment(Path(folder) / "venv"), 0.0
        commands = {
            "kdengine new-plugin": ["-m", "kdengine", *new],
            "pip install": ["-m", "pip", "install", "-q", *OFFLINE, "-e", "./kdplugin-my-own"],
            "pytest": ["-m", "pytest", "-q", "./kdplugin-my-own"],
        }
        for name, command in commands.items():
            before = time.perf_counter()
            done = subprocess.run([python, *command], cwd=folder, capture_output=True, text=True, check=False)
            seconds = time.perf_counter() - before
            if done.returncode:
                sys.exit(f"{name} failed:\n{done.stdout}{done.stderr}")
            total += seconds
            print(f"{name:<20} {seconds:6.1f} s   {done.stdout.strip().splitlines()[-1] if name == 'pytest' else ''}")
        print(f"{'together':<20} {total:6.1f} s")


if __name__ == "__main__":
    main()
