"""The runners of TensorRT's two backends, on a fake of the library."""

from __future__ import annotations

import pytest
import torch

from lenet.architecture import INPUT_SHAPE
from lenet.backends.tensorrt import TensorRT
from lenet.backends.tensorrt_rtx import TensorRTRTX
from lenet.errors import BackendError
from tests.backends.holding import held, without_collector
from tests.backends.tensorrt_fakes import Fake, fake_of, images
from tests.fakes import tensorrt_api
from tests.fakes.tensorrt_api import STREAM_HANDLE


class TestRunWithTheFake:
    def test_the_first_pass_tells_shape_and_addresses_and_queues_on_the_runners_stream(self, fake: Fake) -> None:
        runner, batch = fake.build(), images(4)
        address_of_logits = fake.calls()[-1]
        logits = runner.forward(batch)
        assert address_of_logits == ("set_tensor_address", "logits", logits.data_ptr())
        assert fake.calls() == [
            ("set_input_shape", "images", (4, 3, 32, 32)),
            ("set_tensor_address", "images", batch.data_ptr()),
            ("execute_async_v3", STREAM_HANDLE),
        ]
        fake.assert_right(logits, batch)

    @fake_of(TensorRT(), TensorRTRTX())
    def test_the_same_images_again_are_one_call(self, fake: Fake) -> None:
        runner, batch = fake.build(), images(4)
        runner.forward(batch)
        fake.calls()
        runner.forward(batch)
        assert fake.calls() == [("execute_async_v3", STREAM_HANDLE)]

    def test_only_what_changes_is_told(self, fake: Fake) -> None:
        runner, batch = fake.build(), images(8)
        runner.forward(batch)
        fake.calls()
        runner.forward(batch[:3])
        assert fake.names() == ["set_input_shape", "execute_async_v3"]
        runner.forward(images(8)[5:])
        assert fake.names() == ["set_tensor_address", "execute_async_v3"]

    @fake_of(TensorRT(), TensorRTRTX())
    def test_logits_are_right_at_every_batch_size_and_share_one_buffer(self, fake: Fake) -> None:
        runner = fake.build()
        addresses = set()
        for size in (1, 8, 3, 8, 1):
            batch = images(size)
            logits = runner.forward(batch)
            assert logits.shape == (size, 10)
            fake.assert_right(logits, batch)
            addresses.add(logits.data_ptr())
        assert len(addresses) == 1

    @fake_of(TensorRT(), TensorRTRTX())
    @pytest.mark.parametrize(
        ("call", "problem"),
        [
            ("set_input_shape", "refused the shape (4, 3, 32, 32)"),
            ("set_tensor_address", "refused the address of the images"),
            ("execute_async_v3", "refused the forward pass"),
        ],
    )
    def test_a_refused_call_is_an_error_with_the_log(self, fake: Fake, call: str, problem: str) -> None:
        runner = fake.build()
        fake.library.refused.add(call)
        with pytest.raises(BackendError) as caught:
            runner.forward(images(4))
        assert problem in caught.value.summary
        assert caught.value.found == f"{call} was refused"

    def test_a_batch_beyond_the_profile_never_reaches_the_library(self, fake: Fake) -> None:
        runner = fake.build()
        fake.calls()
        with pytest.raises(BackendError, match="do not fit this runner"):
            runner.forward(images(9))
        assert fake.calls() == []

    @fake_of(TensorRT(), TensorRTRTX())
    def test_the_bare_call_is_the_librarys_alone(self, fake: Fake) -> None:
        runner, batch = fake.build(), images(4)
        bare = runner.bare(batch)
        assert bare is not None
        logits = runner.forward(batch)
        fake.calls()
        batch.mul_(2)
        assert bare() is True
        assert fake.calls() == [("execute_async_v3", STREAM_HANDLE)]
        fake.assert_right(logits, batch)

    def test_synchronize_waits_for_the_runners_stream(self, fake: Fake) -> None:
        runner = fake.build()
        fake.calls()
        runner.synchronize()
        assert fake.calls() == [("synchronize",)]


@fake_of(TensorRT(cuda_graph=True))
class TestCudaGraphWithTheFake:
    def test_a_pass_is_run_and_waited_for_before_it_is_captured(self, fake: Fake) -> None:
        runner, batch = fake.build(), images(4)
        fake.calls()
        logits = runner.forward(batch)
        assert fake.calls()[2:] == [
            ("execute_async_v3", STREAM_HANDLE),
            ("synchronize",),
            ("begin_capture", STREAM_HANDLE, "thread_local"),
            ("execute_async_v3", STREAM_HANDLE),
            ("end_capture",),
            ("replay",),
        ]
        fake.assert_right(logits, batch)

    def test_the_same_images_again_are_one_replay_which_reads_them_anew(self, fake: Fake) -> None:
        runner, batch = fake.build(), images(4)
        runner.forward(batch)
        fake.calls()
        batch.mul_(2)
        fake.assert_right(runner.forward(batch), batch)
        assert fake.calls() == [("replay",)]

    def test_the_bare_call_is_the_replay(self, fake: Fake) -> None:
        runner, batch = fake.build(), images(4)
        bare = runner.bare(batch)
        assert bare is not None
        fake.calls()
        bare()
        assert fake.calls() == [("replay",)]

    def test_there_is_a_graph_for_each_batch_size_and_address(self, fake: Fake) -> None:
        runner, one, other = fake.build(), images(4), images(8)
        for batch, captures in ((one, 1), (other, 1), (other[:4], 1), (one, 0), (other, 0), (other[:4], 0)):
            fake.calls()
            fake.assert_right(runner.forward(batch), batch)
            assert fake.names().count("begin_capture") == captures

    def test_a_replay_tells_the_library_no_address(self, fake: Fake) -> None:
        """So the next capture has to, also of the images that were replayed last."""
        runner, one, other = fake.build(), images(4), images(8)
        for batch in (one, other, one, one[:2]):
            fake.assert_right(runner.forward(batch), batch)

    def test_graphs_are_few_and_the_latest_used(self, fake: Fake) -> None:
        runner = fake.build()
        first = images(4)
        runner.forward(first)
        for number in range(20):
            runner.forward(torch.full((4, *INPUT_SHAPE), float(number)))
        fake.calls()
        fake.assert_right(runner.forward(first), first)
        assert fake.names().count("begin_capture") == 1

    def test_a_pass_that_is_refused_in_the_capture_is_an_error_and_no_graph(
        self, fake: Fake, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        runner, batch = fake.build(), images(4)
        execute = tensorrt_api.FakeContext.execute_async_v3
        monkeypatch.setattr(
            tensorrt_api.FakeContext,
            "execute_async_v3",
            lambda self, handle: not self._library.capturing and execute(self, handle),
        )
        for _ in range(2):
            with pytest.raises(BackendError, match="refused the forward pass that was to be captured"):
                runner.forward(batch)
        assert "replay" not in fake.names()


class TestCloseWithTheFake:
    @fake_of(TensorRT(), TensorRT(cuda_graph=True), TensorRTRTX())
    @pytest.mark.parametrize("end", ["close", "del"])
    def test_engine_context_and_graphs_are_gone_without_the_collector(self, fake: Fake, end: str) -> None:
        kinds = (tensorrt_api.FakeEngine, tensorrt_api.FakeContext, tensorrt_api.FakeStream, tensorrt_api.FakeCudaGraph)
        with without_collector():
            runner = fake.build()
            for size in (4, 8, 4):
                runner.forward(images(size))
            references = held(runner, *kinds)
            assert {type(reference()) for reference in references} >= set(kinds[:3])
            if end == "close":
                fake.calls()
                runner.close()
                assert fake.names() == ["synchronize"]
            else:
                del runner
            assert [reference() for reference in references if reference() is not None] == []

    @fake_of(TensorRT(), TensorRT(cuda_graph=True), TensorRTRTX())
    def test_a_closed_runner_calls_the_library_no_more(self, fake: Fake) -> None:
        runner, batch = fake.build(), images(4)
        runner.forward(batch)
        runner.close()
        fake.calls()
        for use, arguments in {"forward": (batch,), "bare": (batch,), "facts": ()}.items():
            with pytest.raises(BackendError, match="was closed"):
                getattr(runner, use)(*arguments)
        runner.close()
        assert fake.calls() == []


class TestRtxWithTheFake:
    @fake_of(TensorRTRTX())
    def test_the_context_is_made_with_eager_kernels_and_the_runtime_cache(self, fake: Fake) -> None:
        fake.build()
        calls = fake.calls()
        names = [call[0] for call in calls]
        assert names.index("set_runtime_cache") < names.index("create_execution_context")
        settings = calls[names.index("create_execution_context")][1]
        strategy = fake.library.DynamicShapesKernelSpecializationStrategy
        assert settings["dynamic_shapes_kernel_specialization_strategy"] is strategy.EAGER
        assert settings["cuda_graph_strategy"] is fake.library.CudaGraphStrategy.DISABLED
        assert settings["runtime_cache"] is not None

    @fake_of(TensorRTRTX(cuda_graph=True))
    def test_rtx_captures_graphs_itself(self, fake: Fake) -> None:
        runner, batch = fake.build(), images(4)
        (settings,) = [call[1] for call in fake.calls() if call[0] == "create_execution_context"]
        assert settings["cuda_graph_strategy"] is fake.library.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        fake.assert_right(runner.forward(batch), batch)
        assert "begin_capture" not in fake.names()

    @fake_of(TensorRTRTX())
    def test_kernels_are_stored_at_the_first_pass_of_a_batch_size_and_read_by_the_next_build(self, fake: Fake) -> None:
        runner = fake.build()
        for size, serialized in ((4, 1), (4, 0), (8, 1), (4, 0)):
            fake.calls()
            runner.forward(images(size))
            assert fake.names().count("serialize") == serialized
        (path,) = fake.directory.glob("*.kernels")
        assert path.read_bytes().endswith(b"\nkernels 4 8")

        written = path.stat().st_mtime_ns
        again = fake.build()
        assert ("deserialize", b"kernels 4 8") in fake.calls()
        again.forward(images(4))
        assert path.stat().st_mtime_ns == written, "nothing new was compiled, and yet it was written"

    @fake_of(TensorRTRTX())
    def test_kernels_that_the_library_refuses_are_compiled_anew(self, fake: Fake) -> None:
        fake.build().forward(images(4))
        fake.library.refused.add("deserialize")
        fake.build().forward(images(8))
        (path,) = fake.directory.glob("*.kernels")
        assert path.read_bytes().endswith(b"\nkernels 8")
