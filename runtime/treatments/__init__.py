"""Treatments of outliers, one file each, and the list of them."""

from lowbit_compiler.runtime.treatments.columns import Columns
from lowbit_compiler.runtime.treatments.nothing import Nothing
from lowbit_compiler.runtime.treatments.rotation import Rotation
from lowbit_compiler.runtime.treatments.rows import Rows
from lowbit_compiler.runtime.treatments.treatment import Treatment

TREATMENTS: dict[str, type[Treatment]] = {treatment.name: treatment for treatment in (Nothing, Rotation, Columns, Rows)}

__all__ = ["TREATMENTS", "Columns", "Nothing", "Rotation", "Rows", "Treatment"]
