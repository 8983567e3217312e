"""A result depends on more than settings and data: code, libraries, settings of JAX, devices."""

import jax

from oddsmill.train.parallel.environment import code_facts, device_facts, jax_facts


def test_the_code_is_told_by_its_version_and_by_its_source():
    facts = code_facts()
    assert facts["jax"] == jax.__version__ and len(facts["the code of oddsmill"]) == 16
    assert facts == code_facts()


def test_settings_of_jax_that_change_results_are_told_and_places_for_caches_and_logs_are_not():
    facts = jax_facts()
    for name in ("jax_enable_x64", "jax_default_matmul_precision", "jax_default_prng_impl", "jax_platforms"):
        assert name in facts
    for name in ("jax_compilation_cache_dir", "jax_log_compiles", "jax_dump_ir_to", "jax_cuda_visible_devices"):
        assert name not in facts and name in jax.config.values


def test_devices_are_told_by_number_and_kind():
    facts = device_facts()
    assert facts["the number of its devices"] == jax.local_device_count()
    assert facts["the platform of its devices"] == jax.default_backend()
