"""Loads the parts of a resolved model: its tokenizer, its configuration, and its context length.

``transformers`` is imported when needed, and never for the configuration of a folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from areal.errors import UserError
from areal.models.folder import first_line, read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LIMITS = (
    "max_position_embeddings",
    "n_positions",
    "max_sequence_length",
    "seq_length",
    "max_seq_len",
    "n_ctx",
)
"""Names of the maximum sequence length in configurations."""
_UNREACHABLE = (
    "cannot load '{path}' from the Hugging Face hub; check the spelling and the network, log in with `hf "
    "auth login` if it is gated, or download it and give the folder ({error})"
)


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a folder or hub id that :func:`resolve_model` returned.

    Raises:
        UserError: the repository does not exist, there is no network, or the tokenizer files do not load.
    """
    from transformers import AutoTokenizer

    local = Path(path) / "tokenizer.json"
    if local.is_file():
        # For a damaged file, the tokenizers library raises a bare Exception, so look for damage first.
        read_json(local)
    try:
        return AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, KeyError, ImportError) as error:
        if Path(path).is_dir():
            raise UserError(f"the tokenizer in '{path}' does not load: {first_line(error)}") from error
        raise UserError(unreachable(path, error)) from error


def unreachable(path: str, error: Exception) -> str:
    """Return the message for a hub id that does not load."""
    return _UNREACHABLE.format(path=path, error=first_line(error))


def model_config(path: str) -> dict[str, Any]:
    """Return the config.json of a model from :func:`resolve_model`.

    Raises:
        UserError: the configuration of a hub id cannot be read.
    """
    folder = Path(path)
    if folder.is_dir():
        return read_json(folder / "config.json")
    from transformers import PretrainedConfig

    try:
        return PretrainedConfig.get_config_dict(path)[0]
    except (OSError, ValueError) as error:
        raise UserError(unreachable(path, error)) from error


def context_limit(path: str) -> int | None:
    """Return the maximum sequence length of a model from :func:`resolve_model`, in tokens, if it is known.

    Raises:
        UserError: the configuration of a hub id cannot be read.
    """
    config = model_config(path)
    # Models with several parts have the language model's settings one level down.
    for settings in (config, config.get("text_config") or {}):
        for key in _LIMITS:
            if settings.get(key):
                return settings[key]
    return None
