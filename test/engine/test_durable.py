"""What is said to be on disk was fsynced, before anybody could see it under its name: a power cut is not tried, the order of calls is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from bondwise import atomic
from bondwise.journal import Journal
from bondwise.schema import WarningEvent


class Calls(list[str]):
    """`fsync NAME` and `rename NAME`, in their order, as the system was asked; names are those of the time of the call."""

    def watch(self, patch: pytest.MonkeyPatch) -> Calls:
        fsync, write = os.fsync, os.write

        def watched_fsync(descriptor: int) -> None:
            self.append(f"fsync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
            fsync(descriptor)

        def watched_write(descriptor: int, data: bytes) -> int:
            self.append(f"write {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
            return write(descriptor, data)

        def watched(name: str) -> Any:
            call = getattr(Path, name)

            def rename(path: Path, target: Path) -> Path:
                self.append(f"rename {Path(target).name}")
                return call(path, target)

            return rename

        patch.setattr(os, "fsync", watched_fsync)
        patch.setattr(os, "write", watched_write)
        for name in ("rename", "replace"):
            patch.setattr(Path, name, watched(name))
        return self


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("names of open files come from /proc")
    return Calls().watch(monkeypatch)


def test_a_file_is_on_disk_before_it_has_its_name(tmp_path: Path, calls: Calls) -> None:
    atomic.write_bytes(tmp_path / "a.json", b"{}")
    assert calls == [f"fsync {atomic.temporary_name(tmp_path / 'a.json').name}", "rename a.json", f"fsync {tmp_path.name}"]
    calls.clear()
    atomic.write_bytes(tmp_path / "b.json", b"{}", durable=False)
    assert calls == ["rename b.json"]


def test_every_event_is_on_disk_when_it_is_told(tmp_path: Path, calls: Calls) -> None:
    journal = Journal(tmp_path / "events.ndjson")
    for number in range(3):
        calls.clear()
        journal.emit(WarningEvent, message=str(number))
        assert calls == ["write events.ndjson", "fsync events.ndjson"]
    journal.close()


def test_a_folder_is_on_disk_with_all_its_files_before_it_appears(tmp_path: Path, calls: Calls) -> None:
    made = tmp_path / "made"
    (made / "inner").mkdir(parents=True)
    for name in ("a", "b", "inner/c"):
        (made / name).write_text(name)
    atomic.publish_directory(made, tmp_path / "out")
    at = calls.index("rename out")
    assert sorted(calls[:at]) == sorted(f"fsync {name}" for name in ("a", "b", "c", "made", "inner"))
    assert calls[at + 1 :] == [f"fsync {tmp_path.name}"]
