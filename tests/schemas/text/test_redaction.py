"""Secrets are told from what only sounds like one, and leave no trace."""

import pytest

from oddsmill.pipeline.config import PreprocessConfig
from oddsmill.schemas.settings import setting_types
from oddsmill.schemas.text.redaction import is_secret, redact, redact_arguments, redact_text
from oddsmill.train.config.generate import GenerateConfig
from oddsmill.train.config.train_config import TrainConfig

SECRET = (
    "s3_secret_access_key", "s3_access_key_id", "s3_session_token", "azure_account_key", "api_key", "apiKey", "APIKey",
    "hf_token", "HF_TOKEN", "token", "access-token", "accessToken", "password", "db.password", "client_secret",
    "credentials", "gcp_credential", "Authorization", "auth", "auth_token", "X-Amz-Signature", "X-Goog-Credential",
    "X-Amz-Security-Token", "sig", "sas", "sas_token", "AWSAccessKeyId", "--password", "private_key", "key",
)  # fmt: skip
PLAIN = (
    "max_token_id", "tokenizer", "tokenizer_revision", "num_tokens", "pad_token", "eos_token", "bos_token", "unk_token",
    "add_bos_token", "additional_special_tokens", "max_new_tokens", "message_keys", "keys", "keyboard", "author",
    "authority", "signal", "design", "sasha", "monkey", "token_budget", "passage", "secretary", "image_token", "beta",
    "num_workers", "temp_location", "sigma", "num_key_value_heads", "query_key_value",
)  # fmt: skip


def test_names_tell_secrets():
    assert [name for name in SECRET if not is_secret(name)] == []
    assert [name for name in PLAIN if is_secret(name)] == []


@pytest.mark.parametrize("settings_class", [PreprocessConfig, TrainConfig, GenerateConfig])
def test_no_setting_of_ours_is_taken_for_a_secret(settings_class: type):
    assert [name for name, _ in setting_types(settings_class) if is_secret(name)] == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:hunter2@host/rows.jsonl: no such file", "https://me:***@host/rows.jsonl: no such file"),
        ("https://hunter2@host/x", "https://***@host/x"),
        ("https://me:hun@ter2@host/x, https://host/?x=a@b", "https://me:***@host/x, https://host/?x=a@b"),
        (
            "s3://b/r.jsonl?X-Amz-Expires=60&X-Amz-Signature=hunter2&x=1",
            "s3://b/r.jsonl?X-Amz-Expires=60&X-Amz-Signature=***&x=1",
        ),
        ("https://a.blob/c?sv=2&sig=hunter2%3D#a", "https://a.blob/c?sv=2&sig=***#a"),
        ("unknown setting --s3_secret_access_key=hunter2; leave", "unknown setting --s3_secret_access_key=***; leave"),
        ("-- --hf_token hunter2 --x=1: only run", "-- --hf_token *** --x=1: only run"),
        ("-- --hf_token=hun:ter2: only run", "-- --hf_token=***: only run"),
        ("--beam_options={'password': 'hunter2', 'a': 1}", "--beam_options={'password': '***', 'a': 1}"),
        ('{"password": "hunter2", "x": {"api_key": hunter2}}', '{"password": "***", "x": {"api_key": ***}}'),
        ("hf://datasets/org/name@main/rows.jsonl", "hf://datasets/org/name@main/rows.jsonl"),
        ("hf://org/name@main", "hf://org/name@main"),
        ("a@b.c: --pad_token=<pad> --max_length=3", "a@b.c: --pad_token=<pad> --max_length=3"),
        ("the key 'seed' stands twice", "the key 'seed' stands twice"),
    ],
)
def test_texts_lose_their_secrets_alone(text: str, shown: str):
    assert redact_text(text) == shown
    assert redact_text(shown) == shown


def test_arguments_and_settings_lose_their_secrets_alone():
    arguments = ["--runner=X", "--s3_secret_access_key=a b", "--s3_session_token", "hunter2", "--auth", "--x", "y"]
    assert redact_arguments(arguments) == [
        "--runner=X", "--s3_secret_access_key=***", "--s3_session_token", "***", "--auth", "--x", "y",
    ]  # fmt: skip
    settings = {
        "source": {"path": ["https://u:hunter2@h/a"], "fields": {"prompt": "key"}, "roles": {"token": "user"}},
        "beam_options": {"s3_access_key_id": "hunter2", "jobs": 3, "labels": ["a"], "nested": {"password": 7}},
        "seed": 3,
        "pad_token": "<pad>",
        "password": None,
    }
    assert redact(settings, names_of_rows=("fields", "roles")) == {
        "source": {"path": ["https://u:***@h/a"], "fields": {"prompt": "key"}, "roles": {"token": "user"}},
        "beam_options": {"s3_access_key_id": "***", "jobs": 3, "labels": ["a"], "nested": {"password": "***"}},
        "seed": 3,
        "pad_token": "<pad>",
        "password": None,
    }
