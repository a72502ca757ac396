"""What will not do as a model is said in one line before anything starts; what will do is let through."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from areal.config import parse_config
from areal.errors import UserError
from areal.models import load_tokenizer, resolve_model
from areal.models.loading import context_limit
from areal.runtime.model_checks import check_model, check_tensor_parallel, check_thoughts

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from families import make

Change = Callable[[Path], None]


def settings(file: str, **values: Any) -> Change:
    """Set values in a model's JSON file, or take those that are None away."""

    def change(folder: Path) -> None:
        found = json.loads((folder / file).read_text()) | values
        (folder / file).write_text(json.dumps({k: v for k, v in found.items() if v is not None}))

    return change


def template(text: str) -> Change:
    return lambda folder: (folder / "chat_template.jinja").write_text(text) and None


def no_end(folder: Path) -> None:
    settings("tokenizer_config.json", eos_token=None)(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)


REFUSED: dict[str, tuple[Change, str]] = {
    "no end": (no_end, "no end-of-sequence token"),
    "broken template": (template("{% for x in %}"), "rejects a plain question: TemplateSyntaxError"),
    "refusing template": (template("{{ raise_exception('no users') }}"), "TemplateError: no users"),
    "silent template": (template("<s>"), "drops the user's message"),
    "quantized": (settings("config.json", quantization_config={"quant_method": "gptq"}), "quantized (gptq)"),
    "unknown": (settings("config.json", model_type="newer"), "does not know its model_type"),
    "own code": (
        settings("config.json", model_type="newer", auto_map={"AutoConfig": "own.Config"}),
        "needs custom code",
    ),
    "other tokenizer": (settings("config.json", vocab_size=100), "tokens that its model does not have"),
    "encoder": (
        settings("config.json", model_type="bert", architectures=["BertForMaskedLM"]),
        "(BertForMaskedLM) is not a causal language model",
    ),
    "encoder and decoder": (
        settings("config.json", model_type="t5", is_encoder_decoder=True, architectures=["T5Model"]),
        "is not a causal language model",
    ),
    "wrong type": (settings("config.json", num_hidden_layers="two"), "num_hidden_layers"),
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(resolve_model("starter"), tmp_path / "model"))


@pytest.mark.parametrize("name", REFUSED)
def test_what_will_not_do_is_refused_in_one_line(model: Path, name: str):
    change, complaint = REFUSED[name]
    change(model)
    with pytest.raises(UserError) as refused:
        check_model(str(model), training=True)
    assert complaint in str(refused.value)
    assert str(model) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_will_do_is_let_through(model: Path):
    assert check_model(str(model), training=True) == []
    settings("config.json", quantization_config={"quant_method": "gptq"})(model)
    assert check_model(str(model), training=False) == [], "quantized models answer"


@pytest.mark.parametrize(
    ("shape", "workers", "possible"),
    [
        ((384, 12, 2, 64), [1, 2, 4], "1, 2, 4"),
        ((128, 8, 8, 12), [1, 2, 4], "1, 2, 4"),
        ((896, 14, 2, 4864), [1, 2], "1, 2"),
    ],
)
def test_the_workers_of_an_engine_share_heads_and_widths_evenly(
    model: Path, shape: tuple[int, ...], workers: list[int], possible: str
):
    names = ("hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size")
    settings("config.json", **dict(zip(names, shape, strict=True)))(model)
    for count in range(1, 16):
        if count in workers:
            check_tensor_parallel(str(model), count)
            continue
        with pytest.raises(
            UserError, match=rf"engine\.tensor_parallel={count} .* set it to one of {possible}$"
        ):
            check_tensor_parallel(str(model), count)


def test_a_model_without_a_template_is_noticed(model: Path):
    settings("tokenizer_config.json", chat_template=None)(model)
    (model / "chat_template.jinja").unlink(missing_ok=True)
    (notice,) = check_model(str(model), training=True)
    assert "has no chat template" in notice


def test_a_model_that_goes_on_where_its_template_ends_a_turn_is_noticed(model: Path):
    path, tokenizer = model / "chat_template.jinja", load_tokenizer(str(model))
    ends, text = tokenizer.eos_token, tokenizer.chat_template
    settings("tokenizer_config.json", chat_template=None)(model)
    path.write_text(text.replace(ends, "<|over|>"))
    (notice,) = check_model(str(model), training=True)
    assert notice.startswith("warning: ")
    assert "ends a turn with '<|over|>" in notice
    assert f"(it stops at {ends})" in notice
    path.write_text("{% for m in messages[-1:] %}{{ m.content }}{% endfor %}")
    assert check_model(str(model), training=True) == [], "it drops earlier turns, and nobody can tell"
    refuses = "{% if messages|length > 1 %}{{ raise_exception('One!') }}{% endif %}"
    path.write_text(refuses + text)
    assert check_model(str(model), training=True) == []


@pytest.mark.parametrize("family", ["mamba2", "lfm2", "qwen3-next"])
def test_a_model_with_a_state_is_refused(tmp_path: Path, family: str):
    folder = make(family, tmp_path)
    with pytest.raises(UserError, match="carries a state from token to token"):
        check_model(str(folder), training=True)


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        ({"max_position_embeddings": 2048, "n_positions": 7}, 2048),
        ({"n_positions": 1024, "n_ctx": 512}, 1024),
        ({"max_seq_len": 2048}, 2048),
        ({"text_config": {"max_position_embeddings": 4096}}, 4096),
        ({}, None),
    ],
)
def test_the_limit_is_found_by_any_of_its_names(tmp_path: Path, config: dict[str, Any], limit: int | None):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert context_limit(str(tmp_path)) == limit


def test_a_budget_of_thoughts_leaves_room_for_words(tmp_path: Path):
    folder = tmp_path / "model"
    shutil.copytree(resolve_model("starter"), folder)
    template("{{ messages[0].content }}<think>{# until </think> -#}")(folder)
    config = parse_config({"rollout": {"thinking_budget": 20}, "chat": {"thought_end": "</think>"}})
    ending = len(load_tokenizer(str(folder)).encode("</think>"))
    check_thoughts(config, str(folder), {"rollout.max_new_tokens": 21 + ending, "another": 999})
    with pytest.raises(
        UserError, match=rf"no room for an answer in rollout.max_new_tokens={20 + ending}, .*decrease"
    ):
        check_thoughts(config, str(folder), {"another": 999, "rollout.max_new_tokens": 20 + ending})
    with pytest.raises(UserError, match="does not mark thoughts"):
        check_thoughts(config, resolve_model("starter"), {})
    check_thoughts(parse_config({}), resolve_model("starter"), {})
