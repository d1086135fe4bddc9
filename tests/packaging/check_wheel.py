"""Builds the wheel, installs it alone into a bare environment and runs the command line there.

The environment sees no checkout and only what the text tools need (lark), so this shows that the
grammar travels in the wheel and that `attir --version` and `attir opt` import neither torch nor
triton.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = '%0 = "arith.constant"() <{value = 1.0 : f32}> : () -> f32\n'


def run(*command: str | Path, cwd: Path, stdin: str = "") -> str:
    done = subprocess.run([str(c) for c in command], cwd=cwd, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed ({done.returncode}):\n{done.stdout}{done.stderr}")
    return done.stdout


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pip = (sys.executable, "-m", "pip", "--quiet")
        run(*pip, "wheel", "--no-deps", "--wheel-dir", folder, ROOT, cwd=folder)
        (wheel,) = folder.glob("attir-*.whl")
        venv.create(folder / "bare", with_pip=True)
        python = folder / "bare" / "bin" / "python"
        lark = importlib.metadata.version("lark")
        run(python, "-m", "pip", "install", "--quiet", "--no-deps", wheel, f"lark=={lark}", cwd=folder)
        attir = folder / "bare" / "bin" / "attir"
        version = run(attir, "--version", cwd=folder).strip()
        printed = run(attir, "opt", "-", "--passes=canonicalize", cwd=folder, stdin=PROGRAM)
        if "builtin.module" not in printed:
            sys.exit(f"the installed wheel printed no IR:\n{printed}")
        print(f"wheel {wheel.name} installs and runs: {version}")


if __name__ == "__main__":
    main()
