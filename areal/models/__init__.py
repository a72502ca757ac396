"""Finds the model with a given name, or explains in one line why there is none.

>>> from areal.models import load_tokenizer, resolve_model
>>> folder = resolve_model("starter")
>>> load_tokenizer(folder).eos_token
'<|end|>'

Importing this module is cheap; ``transformers`` is imported when a tokenizer is loaded.
"""

from areal.models.loading import load_tokenizer
from areal.models.resolve import resolve_model

__all__ = ["load_tokenizer", "resolve_model"]
