"""One policy for each field of a request: it is read, harmless, a change of the sampling, or refused.

A field is harmless if it affects neither the sampling distribution nor the input of the model. A field that
asks for a distribution of responses other than that of the run is ignored, with a log entry, or refused, as
the episode's settings decide; the run's distribution is sampled in both cases. All other fields are refused
(Refusal), even unknown ones, because the model might see something other than the program expects.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from areal.rollout.endpoint.wire import Reading, shown, unavailable

# Fields of OpenAI's protocols; of Anthropic's, including headers that some clients put into the body; of
# vLLM's server: queues, caches, transport, additions to the response, images, which do not exist here; of
# routers: the choice of a server and its price; and fields within other fields.
_HARMLESS = """
store metadata user safety_identifier service_tier prompt_cache_key prompt_cache_options
prompt_cache_retention prediction reasoning reasoning_effort verbosity max_tool_calls moderation
access_programs background_options client_metadata text.verbosity

effort output_config.effort cache_control inference_geo speed diagnostics betas anthropic_version
anthropic_beta user_profile_id workspace_id billing_policy fallbacks fallback_credit_token

priority request_id session_id cache_salt stream_interval include_reasoning return_token_ids
return_tokens_as_token_ids return_token_offsets return_prompt_text routed_experts_prompt_start mm_payload
mm_processor_kwargs media_io_kwargs return_mm_kwargs truncation_side enable_response_messages
kv_transfer_params ec_transfer_params

provider route models usage
"""
_IGNORED = frozenset(_HARMLESS.split())

_UNCHANGED: dict[str, tuple[Any, ...]] = {
    "top_p": (1,),
    "top_k": (0, -1),
    "min_p": (0,),
    "typical_p": (1,),
    "top_a": (0,),
    "tfs": (1,),
    "mirostat": (0,),
    "mirostat_mode": (0,),
    "xtc_probability": (0,),
    "dry_multiplier": (0,),
    "top_logprobs": (0,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "repeat_penalty": (1,),
    "length_penalty": (1,),
    "no_repeat_ngram_size": (0,),
    "min_tokens": (0,),
    "n": (1,),
    "logit_bias": ({},),
    "vllm_xargs": ({},),
    "chat_template_kwargs": ({},),
    "context_management": ({},),
    "best_of": (1,),
    "use_beam_search": (False,),
    "do_sample": (True,),
    "watermarking": (False,),
    "ignore_eos": (False,),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True, False),
    "parallel_tool_calls": (True,),
    "function_call": ("auto", "none"),
    "modalities": (["text"],),
    "truncation": ("disabled",),
    "background": (False,),
    "echo": (False,),
    "add_special_tokens": (False,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "response_prefix": ("",),
    "suffix": ("",),
}
"""Fields that are handled elsewhere, with the values that request nothing."""

_NUMBERS = """
temperature top_p top_k min_p typical_p top_a tfs mirostat mirostat_mode mirostat_eta mirostat_tau
xtc_probability xtc_threshold dry_multiplier dry_base dry_allowed_length frequency_penalty presence_penalty
repetition_penalty repeat_penalty length_penalty no_repeat_ngram_size min_tokens best_of
"""
_OTHERS = """
logit_bias bad_words allowed_token_ids logits_processors use_beam_search do_sample ignore_eos
parallel_tool_calls structured_outputs guided_json guided_regex guided_choice guided_grammar
guided_decoding_backend guided_whitespace_pattern thinking_token_budget repetition_detection
"""
_SAMPLING = dict.fromkeys(_NUMBERS.split(), (int, float)) | dict.fromkeys(_OTHERS.split(), (object,))
"""Fields that only request another distribution of responses, with their types."""

_TEMPERATURE = (
    "temperature={value} differs from the temperature of the run: this endpoint samples at {run:g}, for "
    "which the learner computes probabilities; remove it, or set rollout.temperature for the whole run"
)
_REFUSED = (
    "{name}={value} is not available: this endpoint does not support it, and the sampling distribution or "
    "the input of the model may depend on it; remove it"
)
_JSON = "{name}: forced JSON is not sampled from the model; ask for it in the prompt"


def look_at_format(name: str, given: Any, reading: Reading) -> None:
    """Check a response format: any format other than plain text changes the sampling; invalid ones are
    refused."""
    if given is None or (isinstance(given, dict) and given.get("type", "text") == "text"):
        return
    why = _JSON.format(name=name)
    if not isinstance(given, dict) or not isinstance(given["type"], str):
        raise unavailable(why)
    reading.form(name, given, why)


def look_within(name: str, given: dict[str, Any] | None, reading: Reading) -> None:
    """Check the fields within a field, of which ``format`` is the format of the response."""
    inside = {f"{name}.{inner}": value for inner, value in (given or {}).items()}
    form = f"{name}.format"
    look_at_format(form, inside.pop(form, None), reading)
    look_at_fields(inside, reading)


def look_at_fields(given: Mapping[str, Any] | None, reading: Reading) -> None:
    """Check fields that are not read.

    Raises:
        Refusal: a field is neither harmless nor a change of the sampling, or is such a change while
            these are refused; null and values without effect pass.
    """
    for name, value in (given or {}).items():
        if value is None or value == [] or name in _IGNORED:
            continue
        if name == "context_management" and _drops_thoughts_alone(value):
            continue
        unchanged = (reading.temperature,) if name == "temperature" else _UNCHANGED.get(name, ())
        if _is_one_of(value, unchanged):
            continue
        why = _TEMPERATURE if name == "temperature" else _REFUSED
        why = why.format(name=name[:80], value=shown(value), run=reading.temperature)
        if not _changes_sampling(name, value):
            raise unavailable(why)
        reading.override(name, value, why)


def _changes_sampling(name: str, value: Any) -> bool:
    types = _SAMPLING.get(name, ())
    return isinstance(value, types) and (types == (object,) or not isinstance(value, bool))


def _is_one_of(value: Any, harmless: tuple[Any, ...]) -> bool:
    """Return whether a value is among the harmless ones; ``true`` does not count as a number."""
    return any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in harmless)


def _drops_thoughts_alone(value: Any) -> bool:
    """Return whether Anthropic's edits of the history only concern thoughts, which no history here has."""
    edits = value.get("edits") if isinstance(value, dict) else None
    return isinstance(edits, list) and all(
        isinstance(edit, dict) and str(edit.get("type")).startswith("clear_thinking_") for edit in edits
    )
