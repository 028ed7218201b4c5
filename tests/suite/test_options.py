"""The options of the suite, as pytest parses them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from lenet.measurement.protocol import Adaptive, Coursework
from lenet.suite import options
from lenet.vocabulary import HostMemory, InputType, Mode, Precision


def parsed(*arguments: str) -> pytest.Config:
    parser = pytest.Parser(_ispytest=True)
    options.add_options(parser)
    found = parser.parse_known_args(list(arguments))
    names: dict[str, Any] = {"benchmark_compare_fail": None, "benchmark_compare": []}
    option = SimpleNamespace(**(names | vars(found)))

    def getoption(name: str) -> Any:
        return getattr(option, name.removeprefix("--").replace("-", "_"))

    return cast("pytest.Config", SimpleNamespace(option=option, getoption=getoption))


def test_the_defaults_are_the_coursework_s() -> None:
    config = parsed()
    options.check_options(config.option)
    found = {fixture: options.chosen(config, fixture) for fixture in options.CHOICES}
    assert found.pop("backend_name")[0] == "pytorch"
    assert found == {
        "mode": [Mode.FORWARD, Mode.END_TO_END],
        "batch_size": [1000],
        "precision": [Precision.FP32],
        "host_memory": [HostMemory.PINNED],
        "input_type": [InputType.FLOAT32],
        "threads": [],
    }
    assert options.protocol_of(config) == Coursework(warmups=5, rounds=100)
    assert config.option.device == "auto"
    assert config.option.cold_cache is False


def test_values_are_of_their_types_in_their_order_and_each_once() -> None:
    arguments = ("--batch-size=10", "--batch-size=1", "--batch-size=10", "--mode=end_to_end", "--input=uint8")
    config = parsed(*arguments, "--host-memory=zero-copy", "--precision=fp16", "--backend=fused", "--warmups=0")
    assert options.chosen(config, "batch_size") == [10, 1]
    assert options.chosen(config, "mode") == [Mode.END_TO_END]
    assert options.chosen(config, "input_type") == [InputType.UINT8]
    assert options.chosen(config, "host_memory") == [HostMemory.ZERO_COPY]
    assert options.chosen(config, "precision") == [Precision.FP16]
    assert options.chosen(config, "backend_name") == ["fused"]
    assert all(type(one) is kind for kind in (Mode,) for one in options.chosen(config, "mode"))
    assert options.protocol_of(config) == Coursework(warmups=0, rounds=100)


def test_the_adaptive_protocol_takes_a_time() -> None:
    config = parsed("--protocol=adaptive", "--time-limit=2.5", "--warmups=1")
    options.check_options(config.option)
    assert options.protocol_of(config) == Adaptive(warmups=1, time_limit=2.5)
    assert options.protocol_of(parsed("--protocol=adaptive")) == Adaptive(warmups=5, time_limit=10.0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--protocol=adaptive", "--rounds=3"), "--rounds is for --protocol=coursework: --protocol=adaptive does not"),
        (("--time-limit=3",), "--time-limit is for --protocol=adaptive: --protocol=coursework does not use it"),
    ],
)
def test_options_that_contradict_are_refused(arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(pytest.UsageError, match=said):
        options.check_options(parsed(*arguments).option)


def test_nothing_fails_a_comparison_that_is_none() -> None:
    option = parsed().option
    option.benchmark_compare_fail = ["median:5%"]
    with pytest.raises(pytest.UsageError, match="--benchmark-compare-fail wants --benchmark-compare"):
        options.check_options(option)
    option.benchmark_compare = True
    options.check_options(option)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("--backend=pytroch", "there is no backend 'pytroch': did you mean pytorch "),
        (
            "--mode=forwards",
            "there is no mode 'forwards': did you mean forward? there are forward, end_to_end, throughput",
        ),
        ("--precision=fp61", "there is no precision 'fp61': did you mean fp16 "),
        ("--input=int8", "there is no input type 'int8': did you mean uint8? there are float32, uint8"),
        ("--host-memory=zerocopy", "there is no memory 'zerocopy': did you mean zero-copy? "),
        ("--protocol=adaptative", "there is no protocol 'adaptative': did you mean adaptive? "),
    ],
)
def test_a_word_that_is_none_gets_the_near_ones(typed: str, message: str) -> None:
    with pytest.raises(pytest.UsageError) as caught:
        parsed(typed)
    assert message in str(caught.value)


@pytest.mark.parametrize("wrong", ["0", "-1", "inf", "nan", "soon"])
def test_a_time_that_is_none_is_refused(wrong: str) -> None:
    with pytest.raises(pytest.UsageError, match=r"--time-limit.*no positive number of seconds"):
        parsed("--protocol=adaptive", f"--time-limit={wrong}")


@pytest.mark.parametrize(
    "option", ["--rounds=0", "--rounds=2.5", "--batch-size=-1", "--batch-size=x", "--depth=0", "--warmups=-1"]
)
def test_a_number_that_is_none_is_refused(option: str) -> None:
    with pytest.raises(pytest.UsageError, match="is no whole number of at least"):
        parsed(option)


def test_threads_are_refused_where_they_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "usable_cpus", lambda: 4)
    config = parsed("--threads=1", "--threads=4", "--threads=1", "--device=auto")
    assert options.chosen(config, "threads") == [1, 4]
    options.check_device(config.option, torch.device("cpu"))
    with pytest.raises(pytest.UsageError, match=r"--device=auto measures a GPU.*add --device=cpu"):
        options.check_device(config.option, torch.device("cuda", 0))
    options.check_device(parsed().option, torch.device("cuda", 0))
    with pytest.raises(pytest.UsageError, match="--threads: 5 threads do not fit the 4 CPUs of this process"):
        parsed("--threads=5")
    with pytest.raises(pytest.UsageError, match="'0' is no whole number of at least 1"):
        parsed("--threads=0")


@pytest.mark.parametrize("value", ["", [""]])
@pytest.mark.parametrize("name", ["benchmark_compare", "benchmark_histogram", "benchmark_storage"])
def test_an_empty_path_of_pytest_benchmark_is_refused(name: str, value: object) -> None:
    """It would compare with nothing, or write to the current directory."""
    option = parsed().option
    setattr(option, name, value)
    with pytest.raises(pytest.UsageError, match=rf'--{name.replace("_", "-")} is empty\n  found:  ""'):
        options.check_options(option)


def test_an_empty_path_of_the_suite_is_refused() -> None:
    with pytest.raises(pytest.UsageError, match=r"--weights is empty"):
        parsed("--weights=")
    assert parsed("--weights=w").option.weights == Path("w")
