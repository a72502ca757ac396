"""Checks a model before anything starts, so that errors are reported in one line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from areal.agents.interface import BadRequest
from areal.agents.program import Program
from areal.config import Config
from areal.errors import UserError
from areal.models import load_tokenizer, resolve_model
from areal.models.loading import unreachable
from areal.models.sight import FAMILIES, auto_class, sees
from areal.rollout.rendering import Renderer, eos_ids
from areal.rollout.turn_end import missed_end, stops
from areal.thoughts import marks_thoughts

_TRIED = [{"role": "user", "content": "What is 1 + 1?"}]
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
"""Names of the number of experts in configurations."""
_OTHER_HEADS = ("MaskedLM", "Classification", "QuestionAnswering", "PreTraining", "Embedding", "Model")
"""Suffixes of architectures that do not predict the next token."""


def check_model(path: str, training: bool) -> list[str]:
    """Check configuration, tokenizer and chat template of a model from :func:`areal.models.resolve_model`.

    Args:
        training: whether it will be trained, instead of only sampled.

    Returns:
        Notes for the user that are not errors.

    Raises:
        UserError: it cannot be trained, or cannot be sampled.
    """
    config = check_architecture(path, training)
    tokenizer = load_tokenizer(path)
    eos = eos_ids_of(path, tokenizer)
    _check_vocabulary(path, config, tokenizer, eos)
    if tokenizer.chat_template is None:
        return [f"{path} has no chat template: the model reads the plain text of all messages, joined"]
    _check_template(path, tokenizer)
    return _ends(path, tokenizer, eos)


def _ends(path: str, tokenizer: Any, eos: tuple[int, ...]) -> list[str]:
    """Return a warning if the model does not stop where its chat template ends a turn."""
    renderer = Renderer(tokenizer, eos)
    try:
        missed = missed_end(tokenizer, renderer)
    except BadRequest:  # a template for a single turn
        return []
    if missed is None:
        return []
    listed = ", ".join(stops(tokenizer, renderer))
    return [
        f"warning: the chat template of {path} ends a turn with {missed!r}, at which the model does not "
        f"stop (it stops at {listed}), so only the length limit ends its responses; add the token to "
        "eos_token_id in its generation_config.json"
    ]


def check_architecture(path: str, training: bool) -> Any:
    """Return a model's configuration; raises UserError if it cannot be trained, or sampled."""
    config = _configuration(path)
    _check_kind(path, config)
    if training:
        _check_trainable(path, config)
    return config


def check_experts(path: str) -> None:
    """Check that a model is a mixture of experts; raises UserError if it is not."""
    text = _configuration(path).get_text_config()
    if not any((getattr(text, name, None) or 0) > 1 for name in _EXPERTS):
        raise UserError(
            f"learner.router_replay=true requires a mixture of experts, and {path} is not one; set it to "
            "false"
        )


_WHERE = "in an observation or in its observation_space"


def check_sight(env: str, agent: Any, model: str | None = None) -> None:
    """Raise UserError if the agent or the model does not support the images of an environment.

    Args:
        model: its name in the configuration; None: a model behind an endpoint, which reports this itself.
    """
    if isinstance(agent, Program):
        raise UserError(
            f"environment '{env}' shows images ({_WHERE}), which a program does not receive; choose an "
            "agent such as single-turn or multi-turn"
        )
    if model is not None and not sees(resolve_model(model, weights=False)):
        raise UserError(
            f"environment '{env}' shows images ({_WHERE}), and the model {model} cannot see them; choose "
            f"one of {', '.join(FAMILIES.values())}"
        )


def check_tensor_parallel(path: str, workers: int) -> None:
    """Check that vLLM can divide a model evenly among the workers of an engine.

    This concerns attention heads and the width of the perceptrons. Key and value heads are repeated if there
    are fewer of them than workers, and the vocabulary is padded.

    Raises:
        UserError: it cannot.
    """
    if workers == 1:
        return
    text = _configuration(path).get_text_config()
    heads = getattr(text, "num_attention_heads", None) or 1
    keys = getattr(text, "num_key_value_heads", None) or heads
    widths = [getattr(text, name, None) for name in ("intermediate_size", "moe_intermediate_size")]

    def fits(n: int) -> bool:
        even = heads % n == 0 and (keys % n == 0 or n % keys == 0)
        return even and all(width % n == 0 for width in widths if isinstance(width, int))

    if not fits(workers):
        possible = ", ".join(str(n) for n in range(1, heads + 1) if fits(n))
        parts = [f"{heads} attention heads", f"{keys} key and value heads"]
        parts += [f"an MLP of width {width}" for width in widths if isinstance(width, int)]
        raise UserError(
            f"engine.tensor_parallel={workers} does not divide the sizes of the model {path} "
            f"({', '.join(parts)}); set it to one of {possible}"
        )


def check_thoughts(config: Config, path: str, lengths: Mapping[str, int]) -> None:
    """Check that rollout.thinking_budget can be enforced.

    Args:
        lengths: maximum response lengths in tokens, by the setting that determines them.

    Raises:
        UserError: the model's chat template marks no thoughts, or a thought would leave no room for text.
    """
    budget = config.rollout.thinking_budget
    if budget is None:
        return
    tokenizer = load_tokenizer(path)
    if not marks_thoughts(tokenizer.chat_template):
        raise UserError(
            f"rollout.thinking_budget={budget}: the chat template of {path} does not mark thoughts, so "
            "areal cannot tell where one ends; remove the setting, or choose a model that thinks"
        )
    ending = len(tokenizer.encode(config.chat.thought_end, add_special_tokens=False))
    for name, length in lengths.items():
        if budget + ending >= length:
            raise UserError(
                f"rollout.thinking_budget={budget} leaves no room for an answer in {name}={length}, because "
                f"the text that ends a thought (chat.thought_end) has {ending} tokens; increase {name} or "
                "decrease the budget"
            )


def eos_ids_of(path: str, tokenizer: Any) -> tuple[int, ...]:
    """Return every token that ends a turn (rendering.eos_ids); raises UserError if there is none."""
    from transformers import GenerationConfig

    try:
        generation = GenerationConfig.from_pretrained(path)
    except OSError:  # a model may not have one
        generation = None
    try:
        return eos_ids(tokenizer, generation)
    except ValueError as error:
        raise UserError(
            f"the tokenizer of {path} has no end-of-sequence token, so no response would end; set eos_token "
            "in its tokenizer_config.json, or eos_token_id in generation_config.json"
        ) from error


def _configuration(path: str) -> Any:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (ValueError, KeyError, TypeError, StrictDataclassError) as error:
        text = " ".join(str(error).split())
        if "trust_remote_code" in text or "custom code" in text:
            text = (
                "it needs custom code, which areal does not run; convert it to an architecture of "
                "transformers"
            )
        elif "does not recognize this architecture" in text:
            text = (
                "the installed transformers does not know its model_type; upgrade transformers, or choose "
                "another model"
            )
        raise UserError(f"cannot use the model {path}: {text[:300]}") from error
    except OSError as error:
        if Path(path).is_dir():
            raise UserError(f"cannot use the model {path}: {' '.join(str(error).split())[:300]}") from error
        raise UserError(unreachable(path, error)) from error


def _check_kind(path: str, config: Any) -> None:
    """Check that the model predicts the next token."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as KNOWN
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as SEEING

    if config.model_type in FAMILIES:
        return
    names = config.architectures or []
    if config.model_type in SEEING and config.model_type not in KNOWN:
        raise UserError(
            f"areal does not know how {path} ({', '.join(names) or config.model_type}) sees images; "
            f"choose one of {', '.join(FAMILIES.values())}"
        )
    other = config.is_encoder_decoder or any(
        name.endswith(_OTHER_HEADS) and not name.endswith("LMHeadModel") for name in names
    )
    if other or config.model_type not in KNOWN:
        what = ", ".join(names) or config.model_type
        raise UserError(
            f"{path} ({what}) is not a causal language model, so it cannot generate text; choose one that is"
        )


def _check_trainable(path: str, config: Any) -> None:
    if (quantized := getattr(config, "quantization_config", None)) is not None:
        method = (
            quantized.get("quant_method") if isinstance(quantized, dict) else quantized.quant_method
        ) or "somehow"
        raise UserError(
            f"{path} is quantized ({getattr(method, 'value', method)}), and quantized weights cannot be "
            "trained; choose the model that it was made from"
        )
    # Not all stateful classes of transformers say so; LFM2's layers between attention do not.
    kinds = getattr(config.get_text_config(), "layer_types", None) or ()
    recurrent = any(not kind.endswith("attention") or kind.startswith("linear") for kind in kinds)
    if recurrent or getattr(auto_class(config)._model_mapping[type(config)], "_is_stateful", False):
        raise UserError(
            f"areal cannot train {path} ({config.model_type}), which carries a state from token to token, "
            "because the state would leak between sequences that are packed into one row; choose a model "
            "with attention only"
        )


def _check_vocabulary(path: str, config: Any, tokenizer: Any, eos: tuple[int, ...]) -> None:
    size = getattr(config.get_text_config(), "vocab_size", None)
    if size is None:
        return
    # A few added tokens may be outside, such as that of an image, which no text contains.
    added = set(tokenizer.added_tokens_decoder) - set(eos)
    beyond = {word: number for word, number in tokenizer.get_vocab().items() if number >= size}
    wrong = sorted(word for word, number in beyond.items() if number not in added)
    if wrong:
        raise UserError(
            f"the tokenizer of {path} has {len(wrong)} tokens that its model does not have (ids from {size} "
            f"on, such as {wrong[0]!r}); use the tokenizer and the weights of the same model"
        )


def _check_template(path: str, tokenizer: Any) -> None:
    from jinja2 import TemplateError

    try:
        text = tokenizer.apply_chat_template(_TRIED, tokenize=False, add_generation_prompt=True)
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise UserError(
            f"the chat template of {path} rejects a plain question: {reason}; fix its chat_template.jinja "
            "(or chat_template in tokenizer_config.json)"
        ) from error
    if _TRIED[0]["content"] not in text:
        raise UserError(
            f"the chat template of {path} drops the user's message; fix its chat_template.jinja (or "
            "chat_template in tokenizer_config.json)"
        )
