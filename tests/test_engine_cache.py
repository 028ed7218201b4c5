from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import platformdirs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lenet import engine_cache
from lenet.engine_cache import Cached, EngineCache, EngineCacheWarning, EngineKey, digest
from lenet.errors import BackendError, OutputError

ROOT = Path(__file__).parents[2]
KEY: EngineKey = {
    "source": "5a" * 32,
    "library": "tensorrt",
    "version": "10.15.1.29",
    "target": "NVIDIA GeForce RTX 4060 Ti, compute capability 8.9",
    "cuda": "12",
    "precision": "fp16",
    "tf32": False,
    "input": "float32",
    "batches": (1, 200, 1000),
    "optimization_level": 3,
}
ENGINE = bytes(range(256)) * 64

values = st.text() | st.booleans() | st.tuples(st.integers(), st.integers(), st.integers())
keys = st.dictionaries(st.text(), values, min_size=1)


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "cache")


@pytest.fixture
def stored(cache: EngineCache) -> Path:
    """The file of an engine that is in the cache."""
    cache.load_or_build(KEY, lambda: ENGINE, accept_all)
    return cache.directory / f"{digest(KEY)}.engine"


def accept_all(content: bytes) -> bytes:
    return content


def must_not_build() -> bytes:
    pytest.fail("built although the engine was there")


def rebuilt_with_one_warning(cache: EngineCache, key: EngineKey = KEY, reason: str = "") -> Cached[bytes]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = cache.load_or_build(key, lambda: ENGINE, accept_all)
    assert [warning.category for warning in caught] == [EngineCacheWarning]
    assert reason in str(caught[0].message)
    assert result == Cached(ENGINE, result.sha256, from_cache=False)
    assert cache.load_or_build(key, must_not_build, accept_all).from_cache
    return result


def run_python(code: str, *arguments: str) -> subprocess.Popen[str]:
    prelude = (
        f"import os, sys, time; from pathlib import Path\nfrom lenet.engine_cache import EngineCache\nKEY = {KEY!r}\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", prelude + code, *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


class TestKey:
    @given(keys, st.data())
    def test_any_field_changes_the_digest(self, key: EngineKey, data: st.DataObject) -> None:
        field = data.draw(st.sampled_from(sorted(key)))
        other = data.draw(values.filter(lambda candidate: candidate != key[field]))
        assert digest({**key, field: other}) != digest(key)
        assert digest({name: value for name, value in key.items() if name != field}) != digest(key)

    @given(keys)
    def test_equal_keys_have_equal_digests_in_any_order(self, key: EngineKey) -> None:
        assert digest(dict(reversed(list(key.items())))) == digest(key)

    def test_the_format_is_part_of_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = digest(KEY)
        monkeypatch.setattr(engine_cache, "_FORMAT", 2)
        assert digest(KEY) != before


class TestHit:
    def test_the_first_time_builds_and_the_second_loads(self, cache: EngineCache) -> None:
        first = cache.load_or_build(KEY, lambda: ENGINE, accept_all)
        second = cache.load_or_build(KEY, must_not_build, accept_all)
        assert (first.value, first.from_cache) == (ENGINE, False)
        assert second == dataclasses.replace(first, from_cache=True)

    def test_an_entry_is_a_line_of_json_and_the_engine(self, cache: EngineCache, stored: Path) -> None:
        header, _, content = stored.read_bytes().partition(b"\n")
        result = cache.load_or_build(KEY, must_not_build, accept_all)
        assert content == ENGINE
        assert json.loads(header)["sha256"] == result.sha256
        assert json.loads(header)["key"]["target"] == KEY["target"]

    def test_another_key_is_another_entry(self, cache: EngineCache, stored: Path) -> None:
        other = {**KEY, "precision": "fp32"}
        assert not cache.load_or_build(other, lambda: b"other", accept_all).from_cache
        assert cache.load_or_build(KEY, must_not_build, accept_all).value == ENGINE
        assert stored.exists()

    def test_what_is_kept_beside_an_engine_is_apart_from_it(self, cache: EngineCache, stored: Path) -> None:
        assert cache.read(KEY, "kernels") is None
        cache.write(KEY, b"kernels", "kernels")
        assert cache.read(KEY, "kernels") == b"kernels"
        stored.with_suffix(".kernels").replace(stored)
        rebuilt_with_one_warning(cache)


class TestDamage:
    @given(cut=st.integers(min_value=0, max_value=len(ENGINE)))
    def test_truncated(self, tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
        cache, path = self.fresh(tmp_path_factory)
        whole = path.read_bytes()
        path.write_bytes(whole[: min(cut, len(whole) - 1)])
        rebuilt_with_one_warning(cache, reason="damaged")

    @given(bit=st.integers(min_value=0, max_value=8 * len(ENGINE) - 1))
    def test_one_bit_flipped(self, tmp_path_factory: pytest.TempPathFactory, bit: int) -> None:
        cache, path = self.fresh(tmp_path_factory)
        content = bytearray(path.read_bytes())
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        rebuilt_with_one_warning(cache, reason="damaged")

    @pytest.mark.parametrize("header", [b"", b"{}", b"ftrt", b'{"format": 99}', b"\xff\xfe"])
    def test_foreign_header(self, cache: EngineCache, stored: Path, header: bytes) -> None:
        stored.write_bytes(header + b"\n" + ENGINE)
        rebuilt_with_one_warning(cache, reason="made for something else")

    def test_another_keys_engine_under_this_name(self, cache: EngineCache, stored: Path) -> None:
        other = {**KEY, "target": "NVIDIA H100, compute capability 9.0"}
        cache.load_or_build(other, lambda: b"for another GPU", accept_all)
        (cache.directory / f"{digest(other)}.engine").replace(stored)
        rebuilt_with_one_warning(cache, reason="made for something else")

    def test_refused_by_the_library(self, cache: EngineCache, stored: Path) -> None:
        answers = iter([None, b"accepted"])
        with pytest.warns(EngineCacheWarning, match="the library refuses it") as caught:
            result = cache.load_or_build(KEY, lambda: b"new", lambda _: next(answers))
        assert len(caught) == 1
        assert (result.value, result.from_cache) == (b"accepted", False)
        assert stored.read_bytes().endswith(b"\nnew")

    def test_a_new_engine_that_the_library_refuses_is_not_stored(self, cache: EngineCache) -> None:
        with pytest.raises(BackendError, match="refuses the engine that it just built"):
            cache.load_or_build(KEY, lambda: ENGINE, lambda _: None)
        assert list(cache.directory.glob("*.engine")) == []

    def test_a_failed_build_stores_nothing_and_frees_the_lock(self, cache: EngineCache) -> None:
        def fail() -> bytes:
            raise BackendError("no engine", found="", wanted="", hint="")

        with pytest.raises(BackendError, match="no engine"):
            cache.load_or_build(KEY, fail, accept_all)
        assert cache.load_or_build(KEY, lambda: ENGINE, accept_all).value == ENGINE

    @staticmethod
    def fresh(factory: pytest.TempPathFactory) -> tuple[EngineCache, Path]:
        cache = EngineCache(factory.mktemp("cache", numbered=True))
        cache.write(KEY, ENGINE)
        return cache, cache.directory / f"{digest(KEY)}.engine"


class TestEntries:
    """Entries of a directory that is private now, and was not when they were put there."""

    @pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
    def test_one_that_others_could_have_written_is_not_loaded(
        self, cache: EngineCache, stored: Path, mode: int
    ) -> None:
        stored.chmod(mode)
        rebuilt_with_one_warning(cache, reason=f"writable by others (mode {mode:04o})")
        assert stored.stat().st_mode & 0o777 == 0o600

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
    def test_another_users_is_not_loaded(self, cache: EngineCache, stored: Path) -> None:
        os.chown(stored, 65534, 65534)
        rebuilt_with_one_warning(cache, reason="owned by user 65534, not 0")
        assert stored.stat().st_uid == 0

    def test_a_symbolic_link_is_not_followed_and_its_target_stays(
        self, cache: EngineCache, stored: Path, tmp_path: Path
    ) -> None:
        target = tmp_path / "elsewhere"
        stored.replace(target)
        content = target.read_bytes()
        stored.symlink_to(target)
        rebuilt_with_one_warning(cache, reason="symbolic links")
        assert target.read_bytes() == content
        assert not stored.is_symlink()

    def test_a_pipe_is_not_waited_for(self, cache: EngineCache, stored: Path) -> None:
        stored.unlink()
        os.mkfifo(stored, 0o600)
        with pytest.warns(EngineCacheWarning, match="no regular file"):
            assert cache.read(KEY) is None

    def test_an_entry_is_loaded_again_whatever_the_umask_was(self, cache: EngineCache) -> None:
        previous = os.umask(0)
        try:
            cache.load_or_build(KEY, lambda: ENGINE, accept_all)
        finally:
            os.umask(previous)
        assert cache.load_or_build(KEY, must_not_build, accept_all).from_cache


class TestDirectory:
    def test_it_is_made_for_its_owner_alone(self, cache: EngineCache) -> None:
        previous = os.umask(0)
        try:
            cache.load_or_build(KEY, lambda: ENGINE, accept_all)
        finally:
            os.umask(previous)
        assert cache.directory.stat().st_mode & 0o777 == 0o700

    @pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
    def test_one_that_others_can_write_is_refused(self, cache: EngineCache, stored: Path, mode: int) -> None:
        cache.directory.chmod(mode)
        self.refused(cache, f"writable by others (mode {mode:04o})")
        assert stored.exists()

    def test_a_symbolic_link_is_refused(self, cache: EngineCache, stored: Path, tmp_path: Path) -> None:
        assert stored.exists()
        link = tmp_path / "link"
        link.symlink_to(cache.directory)
        self.refused(EngineCache(link), "a symbolic link")

    def test_another_users_is_refused(self, cache: EngineCache, stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert stored.exists()
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
        self.refused(cache, "not 12345")

    def test_one_that_cannot_be_made_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        cache = EngineCache(tmp_path / "file" / "cache")
        with pytest.raises(OutputError, match=r"(?s)cannot be written.*Not a directory.*LENET_CACHE"):
            cache.load_or_build(KEY, must_not_build, accept_all)

    def test_a_file_in_its_place_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(OutputError, match=r"(?s)cannot be written.*File exists"):
            EngineCache(tmp_path / "file").load_or_build(KEY, must_not_build, accept_all)

    def test_one_that_is_read_only_is_an_error_before_anything_is_built(self, tmp_path: Path) -> None:
        # Root may write anywhere, so that the lock's refusal is played where root runs this.
        cache = EngineCache(tmp_path / "cache")
        cache.directory.mkdir(mode=0o500)
        with pytest.MonkeyPatch.context() as patch:
            if os.geteuid() == 0:
                patch.setattr(engine_cache, "FileLock", lambda _: ReadOnlyLock())
            with pytest.raises(OutputError, match=r"(?s)cannot be written.*(Permission denied|Read-only).*LENET_CACHE"):
                cache.load_or_build(KEY, must_not_build, accept_all)

    def test_making_it_private_is_not_advised_since_what_lies_in_it_may_be_another_users(
        self, cache: EngineCache, stored: Path
    ) -> None:
        assert stored.exists()
        cache.directory.chmod(0o777)
        with pytest.raises(BackendError) as caught:
            cache.read(KEY)
        assert "chmod" not in str(caught.value)
        assert "LENET_CACHE to a new directory" in caught.value.hint

    def test_lenet_cache_chooses_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LENET_CACHE", str(tmp_path))
        assert engine_cache.default_directory() == tmp_path
        monkeypatch.setenv("LENET_CACHE", "~/engines")
        assert engine_cache.default_directory() == Path.home() / "engines"

    def test_the_users_cache_directory_is_the_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LENET_CACHE", "~nobody-of-this-name/engines")
        with pytest.raises(OutputError, match="LENET_CACHE=~nobody-of-this-name/engines"):
            engine_cache.default_directory()
        monkeypatch.delenv("LENET_CACHE", raising=False)
        assert engine_cache.default_directory() == platformdirs.user_cache_path("lenet-bench")

    @staticmethod
    def refused(cache: EngineCache, found: str) -> None:
        uses: list[Callable[[], object]] = [
            lambda: cache.load_or_build(KEY, must_not_build, accept_all),
            lambda: cache.read(KEY),
            lambda: cache.write(KEY, ENGINE),
        ]
        for use in uses:
            with pytest.raises(BackendError, match="not safe to load engines from") as caught:
                use()
            assert found in caught.value.found


class ReadOnlyLock:
    def acquire(self) -> None:
        raise OSError(30, "Read-only file system")


class TestProcesses:
    @pytest.mark.programs
    def test_of_four_at_once_one_builds_and_the_others_load(self, cache: EngineCache, tmp_path: Path) -> None:
        code = """
def build():
    with open(sys.argv[2], "a") as log:
        log.write(f"{os.getpid()}\\n")
    time.sleep(0.5)
    return os.urandom(1000)

result = EngineCache(Path(sys.argv[1])).load_or_build(KEY, build, lambda content: content)
print(result.from_cache, result.sha256)
"""
        log = tmp_path / "builds"
        processes = [run_python(code, str(cache.directory), str(log)) for _ in range(4)]
        outputs = [process.communicate(timeout=60)[0].split() for process in processes]
        assert [process.returncode for process in processes] == [0] * 4
        assert len(log.read_text().splitlines()) == 1
        assert sorted(from_cache for from_cache, _ in outputs) == ["False", "True", "True", "True"]
        assert len({sha256 for _, sha256 in outputs}) == 1

    @pytest.mark.programs
    def test_one_killed_while_it_writes_leaves_no_entry_and_no_lock(self, cache: EngineCache) -> None:
        code = """
def killed_here(descriptor):
    print("writing", flush=True)
    time.sleep(60)

os.fsync = killed_here
EngineCache(Path(sys.argv[1])).load_or_build(KEY, lambda: bytes(100_000), lambda content: content)
"""
        process = run_python(code, str(cache.directory))
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        assert list(cache.directory.glob("*.engine")) == []
        assert list(cache.directory.glob(".lenet-*")), "it was killed before it wrote"

        result = cache.load_or_build(KEY, lambda: ENGINE, accept_all)  # a warning would be an error here
        assert (result.value, result.from_cache) == (ENGINE, False)
        assert {path.suffix for path in cache.directory.iterdir()} == {".engine", ".lock"}
