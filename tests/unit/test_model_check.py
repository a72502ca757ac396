"""What `areal models check` finds out before it starts an engine; tests/integration has the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from chat import tokenizer
from transformers import AutoConfig

from areal import cli
from areal.errors import UserError
from areal.model_check.chat import chat_findings
from areal.model_check.small import make_small, small_config


def found(template: str, **changes: Any) -> dict[str, tuple[bool | None, str]]:
    made = tokenizer(template)
    for name, value in changes.items():
        setattr(made, name, value)
    return {f.what: (f.sound, f.text) for f in chat_findings(made, (made.eos_token_id,))}


@pytest.mark.parametrize("template", ["starter", "chatml", "llama3", "qwen2.5", "qwen3"])
def test_known_templates_are_sound(template: str):
    findings = found(template)
    assert not [what for what, (sound, _) in findings.items() if sound is False]
    assert findings["end of turn"][0]
    assert findings["earlier turns"][0]
    assert ("earlier thoughts" in findings) == (template == "qwen3")


def test_what_a_template_does_is_said():
    findings = found("qwen3")
    assert findings["earlier thoughts"] == (
        None,
        "rewritten: each turn of a conversation is a separate trajectory",
    )
    assert findings["thinking"][1].startswith("chat.template_kwargs.enable_thinking")
    assert findings["tools"] == (True, "JSON in <tool_call> (Hermes, Qwen 2.5, Qwen 3)")
    assert found("chatml")["tools"][1].startswith("not in the template")


def test_what_is_wrong_with_a_template_is_said():
    text = tokenizer("qwen2.5").chat_template
    sound, said = found("qwen2.5", chat_template=text.replace("<|im_end|>", "<|over|>"))["end of turn"]
    assert sound is False
    assert "'<|over|>" in said
    assert "eos_token_id" in said
    sound, said = found("qwen2.5", chat_template=text.replace("<tool_call>", "<call>"))["tools"]
    assert sound is False
    assert "format that areal does not read" in said
    no_system = "{% if messages[0].role == 'system' %}{{ raise_exception('No system!') }}{% endif %}"
    sound, said = found("chatml", chat_template=no_system + tokenizer("chatml").chat_template)["tools"]
    assert (sound, said.endswith("No system!")) == (False, True)
    forgets = "{% for m in messages[-1:] %}{{ m.content }}<|im_end|>{% endfor %}Answer:"
    assert found("qwen2.5", chat_template=forgets)["earlier turns"][0] is None
    assert found("qwen2.5", chat_template=None) == {
        "chat template": (None, "none: the model reads the plain text of all messages")
    }


def test_a_template_that_begins_a_thought_itself_is_sound():
    head, asked, tail = tokenizer("qwen3").chat_template.rpartition("<|im_start|>assistant\\n")
    assert asked
    begins = f"{head}{asked}<think>\\n{tail}"
    findings = found("qwen3", chat_template=begins)
    assert findings["generation prompt"][1].endswith("<think>\\n'")
    assert findings["end of turn"][0] is True


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("qwen3", {"num_attention_heads": 2, "num_key_value_heads": 2, "hidden_size": 64, "head_dim": 32}),
        ("mistral", {"num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 16}),
        ("gemma3_text", {"layer_types": ["sliding_attention", "full_attention"]}),
        ("qwen3_moe", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}),
        (
            "deepseek_v3",
            {"kv_lora_rank": 512, "qk_rope_head_dim": 64, "head_dim": 64, "v_head_dim": 32, "n_group": 2},
        ),
    ],
)
def test_a_small_model_is_of_the_same_architecture(kind: str, expected: dict[str, Any], tmp_path: Path):
    whole = AutoConfig.for_model(kind)
    assert type(small_config(whole)) is type(whole)
    assert whole.num_hidden_layers > 2, "it is not changed itself"
    whole.save_pretrained(tmp_path)
    for tied in (True, False):
        made = make_small(str(tmp_path), tmp_path / str(tied), tied)
        config = AutoConfig.from_pretrained(made)
        assert {name: getattr(config, name) for name in expected} == expected
        assert config.num_hidden_layers == 2
        assert config.tie_word_embeddings is tied
        assert sum(file.stat().st_size for file in made.glob("*.safetensors")) < 5e6


def test_what_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    AutoConfig.for_model("nemotron").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="cannot create a small version of"):
        make_small(str(tmp_path), tmp_path / "made")
    for arguments, said in (
        ([str(tmp_path / "gone")], "does not exist"),
        ([str(tmp_path / "gone"), "--tiny"], "does not exist"),
        (["starter", "--updates", "0"], "--updates must be at least 1"),
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main(["models", "check", *arguments])
        assert ended.value.code == 2
        assert said in capsys.readouterr().err


def test_what_cannot_be_trained_is_said_before_anything_starts(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    AutoConfig.for_model("mamba2").save_pretrained(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.main(["models", "check", str(tmp_path), "--tiny", "--json"])
    assert ended.value.code == 1
    last = json.loads(capfd.readouterr().out.splitlines()[-1])[-1]
    assert last["what"] == "architecture"
    assert last["sound"] is False
    assert "carries a state from token to token" in last["text"]
