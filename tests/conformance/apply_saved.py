"""Load every case that lies in a folder, apply it to the rows, and write what it finds; run in a process of its own."""

import importlib.util
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
_spec = importlib.util.spec_from_file_location("conformance_cases", Path(__file__).with_name("cases.py"))
cases = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = cases
_spec.loader.exec_module(cases)

X, _, _ = cases.rows()
for name, case in cases.CASES.items():
    folder = Path(sys.argv[1]) / name
    found = case.apply(case.loaded(folder), X)
    np.savez(folder / "found.npz", found=found.astype(str) if found.dtype == object else found)
