"""The meaning of `aten`: every overload that captured models use, by full op name."""

from __future__ import annotations

from collections.abc import Mapping

from .aten_arguments import executed
from .aten_complex import COMPLEX
from .aten_elementwise import ARITHMETIC, CASTS, FUNCTIONS, LOGIC
from .aten_indexing import CREATION, INDEXING
from .aten_products import PRODUCTS
from .aten_reductions import REDUCTIONS
from .aten_views import VIEWS
from .call import Handler

ATEN: Mapping[str, Handler] = {
    f"aten.{name}": executed(meaning)
    for table in (ARITHMETIC, FUNCTIONS, LOGIC, CASTS, REDUCTIONS, PRODUCTS, VIEWS, CREATION, INDEXING, COMPLEX)
    for name, meaning in table.items()
}
