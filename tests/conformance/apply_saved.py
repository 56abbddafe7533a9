"""Load every case that lies in a folder, apply it to the rows, and write what it finds; run in a process of its own."""

import importlib.util
import sys
from pathlib import Path

import numpy as np


def main(root: Path) -> None:
    sys.path.insert(0, str(Path(__file__).parents[2]))
    spec = importlib.util.spec_from_file_location("conformance_cases", Path(__file__).with_name("cases.py"))
    cases = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = cases
    spec.loader.exec_module(cases)
    X, _, _ = cases.rows()
    for name, case in cases.CASES.items():
        found = case.apply(case.loaded(root / name), X)
        np.savez(root / name / "found.npz", found=found.astype(str) if found.dtype == object else found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
