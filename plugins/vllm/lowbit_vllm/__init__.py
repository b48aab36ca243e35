"""The entry point: vLLM calls :func:`register` in each of its processes."""


def register() -> None:
    """Make ``quantization="lowbit"`` known to vLLM."""
    from lowbit_vllm import config

    assert config.LowbitConfig  # importing its module registers it
