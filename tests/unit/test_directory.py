from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
import structlog
import watchfiles

from ipvsproxy.objects import ObjectReference, Service
from ipvsproxy.sources import directory
from ipvsproxy.sources.directory import DirectorySource
from ipvsproxy.sources.manifests import Manifest, Statement, read_manifest
from ipvsproxy.sources.picture import Picture, Reading, advance
from ipvsproxy.store import (
    Event,
    Gone,
    Judged,
    Listed,
    Put,
    Readable,
    Refused,
    Unlisted,
    Unreadable,
)

LISTED = [
    Listed(kind) for kind in ("Service", "EndpointSlice", "Node", "ServiceCIDR", "Nodes", "Pods")
]
NEVER = 3600.0


def service(name: str, address: str = "10.96.0.10") -> str:
    return (
        f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n"
        f"spec: {{clusterIP: {address}, ports: [{{port: 80}}]}}\n"
    )


def reference(name: str) -> ObjectReference:
    return ObjectReference("Service", "default", name)


def summary(event: Event) -> str:  # noqa: PLR0911  (one return for each event)
    """Say an event in a few words, files by their names."""
    match event:
        case Put(Service() as value, origin):
            return f"put {value.name.name} {value.cluster_ips[0]} from {Path(origin).name}"
        case Put(value, origin):
            return f"put {value} from {Path(origin).name}"
        case Gone(gone):
            return f"gone {gone.name}"
        case Refused(refused, origin, reason):
            return f"refused {refused.name} in {Path(origin).name}: {reason}"
        case Unreadable(origin, reason):
            return f"unreadable {Path(origin).name}: {reason}"
        case Readable(origin):
            return f"readable {Path(origin).name}"
        case Listed(kind):
            return f"listed {kind}"
        case Unlisted() | Judged():
            raise AssertionError("a folder does not say so")


# ------------------------------------------------------------ the picture, without files


def manifest(path: str, text: str) -> Manifest:
    return read_manifest(text.encode(), path)


def reading(*, problems: dict[str, str] | None = None, **texts: str) -> Reading:
    """Make a reading of files /m/NAME.yaml."""
    paths = {f"/m/{name}.yaml": text for name, text in texts.items()}
    manifests = {path: manifest(path, text) for path, text in paths.items()}
    return Reading(manifests, problems or {}, "/m" not in (problems or {}))


def follow(*readings: Reading) -> list[list[str]]:
    picture, result = Picture(), []
    for one in readings:
        picture, events = advance(picture, one)
        result.append([summary(event) for event in events if not isinstance(event, Listed)])
    return result


BROKEN = {"/m/a.yaml": "line 1: broken"}
A = "put a 10.96.0.10 from a.yaml"
B = "put b 10.96.0.10 from b.yaml"


class TestPicture:
    def test_only_what_has_changed_is_sent(self) -> None:
        first = reading(a=service("a"), b=service("b"))
        second = reading(a=service("a"), b=service("b", "10.96.0.11"))
        third = reading(a=service("a"))
        assert follow(first, first, second, third) == [
            [A, B],
            [],
            ["put b 10.96.0.11 from b.yaml"],
            ["gone b"],
        ]

    def test_the_kinds_are_listed_once_after_the_first_objects(self) -> None:
        picture, events = advance(Picture(), reading(a=service("a")))
        assert events[1:] == LISTED
        _, events = advance(picture, reading(a=service("b")))
        assert not any(isinstance(event, Listed) for event in events)

    def test_a_missing_folder_is_not_listed_and_takes_nothing_away(self) -> None:
        missing = reading(problems={"/m": "no such file or directory"})
        picture, events = advance(Picture(), missing)
        assert events == [Unreadable("/m", "no such file or directory")]
        picture, events = advance(picture, reading(a=service("a")))
        assert [summary(event) for event in events[:2]] == [A, "readable m"]
        assert events[2:] == LISTED
        picture, events = advance(picture, missing)
        assert events == [Unreadable("/m", "no such file or directory")]
        _, events = advance(picture, reading())
        assert events == [Readable("/m"), Gone(reference("a"))]

    def test_a_broken_file_goes_on_saying_what_it_said(self) -> None:
        both = reading(a=service("a"), b=service("b"))
        broken = reading(b=service("b", "10.96.0.11"), problems=BROKEN)
        assert follow(both, broken, both) == [
            [A, B],
            ["unreadable a.yaml: line 1: broken", "put b 10.96.0.11 from b.yaml"],
            [B, "readable a.yaml"],
        ]

    def test_nothing_is_gone_while_a_file_is_broken(self) -> None:
        broken = reading(problems=BROKEN)
        mended = reading(a=service("c"))
        assert follow(reading(a=service("a"), b=service("b")), broken, broken, mended) == [
            [A, B],
            ["unreadable a.yaml: line 1: broken"],
            [],
            ["put c 10.96.0.10 from a.yaml", "readable a.yaml", "gone b", "gone a"],
        ]

    def test_a_broken_file_that_is_deleted_is_gone_for_good(self) -> None:
        assert follow(reading(a=service("a")), reading(problems=BROKEN), reading())[2] == [
            "readable a.yaml",
            "gone a",
        ]

    def test_an_object_that_comes_back_while_a_file_is_broken_was_never_gone(self) -> None:
        both = reading(a=service("a"), b=service("b"))
        broken = reading(problems=BROKEN)
        assert follow(both, broken, both)[2] == ["readable a.yaml"]

    def test_the_files_of_a_folder_that_cannot_be_read_go_on_saying_what_they_said(self) -> None:
        path = "/m/sub/x.yaml"
        first = Reading({path: manifest(path, service("x"))}, {})
        second = Reading({"/m/y.yaml": manifest("/m/y.yaml", service("x"))}, {"/m/sub": "denied"})
        assert follow(first, second)[1] == [
            "unreadable sub: denied",
            "put x 10.96.0.10 from x.yaml",
            "refused x in y.yaml: also defined in /m/sub/x.yaml, and that one counts",
        ]

    def test_nonsense_is_refused_and_still_there(self) -> None:
        assert follow(
            reading(a=service("a")), reading(a=service("a", "x")), reading(a=service("a"))
        ) == [[A], ["refused a in a.yaml: spec.clusterIP: 'x' is not an address"], [A]]

    def test_a_moved_object_is_put_and_not_gone(self) -> None:
        assert follow(reading(a=service("a")), reading(b=service("a"))) == [
            [A],
            ["put a 10.96.0.10 from b.yaml"],
        ]

    def test_of_two_definitions_the_first_file_counts_and_the_other_is_reported(self) -> None:
        duplicate = "refused a in b.yaml: also defined in /m/a.yaml, and that one counts"
        alone = reading(b=service("a", "10.96.0.11"))
        both = reading(b=service("a", "10.96.0.11"), a=service("a"))
        assert follow(alone, both, both, reading(a=service("a")), both, alone) == [
            ["put a 10.96.0.11 from b.yaml"],
            [A, duplicate],
            [],
            [A],
            [A, duplicate],
            ["put a 10.96.0.11 from b.yaml"],
        ]

    def test_of_two_definitions_in_a_file_the_first_counts(self) -> None:
        twice = service("a") + "---\n" + service("a", "10.96.0.11")
        assert follow(reading(a=twice)) == [
            [A, "refused a in a.yaml: also defined earlier in this file, and that one counts"]
        ]

    def test_a_nameless_document_holds_back_deletions_only(self) -> None:
        nameless = service("c") + "---\nknd: Service\n"
        assert follow(
            reading(a=service("a") + "---\n" + service("b")),
            reading(a=nameless),
            reading(a=service("c")),
        )[1:] == [
            [
                "unreadable a.yaml: document at line 6: an object without kind",
                "put c 10.96.0.10 from a.yaml",
            ],
            ["readable a.yaml", "gone a", "gone b"],
        ]


# ------------------------------------------------------------------------- one reading


def statements(events: list[Event]) -> list[Statement]:
    return [event for event in events if isinstance(event, Put | Refused)]


def told(
    answers: Mapping[Path, OSError | int], *, links: bool = True
) -> Callable[..., os.stat_result]:
    """Give a `Path.stat` that fails for some paths, or puts them on another device.

    Without `links` only what follows links is answered so.
    """
    real = Path.stat

    def stat(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        status = real(path, follow_symlinks=follow_symlinks)
        answer = answers.get(path) if links or follow_symlinks else None
        if isinstance(answer, OSError):
            raise answer
        return status if answer is None else os.stat_result((*status[:2], answer, *status[3:]))

    return stat


class TestReading:
    async def test_reads_manifests_in_sub_folders_and_passes_over_the_rest(
        self, tmp_path: Path
    ) -> None:
        (tmp_path / "sub" / "deep").mkdir(parents=True)
        (tmp_path / ".hidden").mkdir()
        for name in ("a.yaml", "sub/b.yml", "sub/deep/c.yaml"):
            (tmp_path / name).write_text(service(Path(name).stem))
        for name in (".x.yaml", "x.yaml~", "x.txt", ".hidden/x.yaml", "x.yaml.swp"):
            (tmp_path / name).write_text("{")
        events = await DirectorySource(tmp_path).read()
        assert [summary(event) for event in events[: -len(LISTED)]] == [
            A,
            "put b 10.96.0.10 from b.yml",
            "put c 10.96.0.10 from c.yaml",
        ]
        assert events[-len(LISTED) :] == LISTED

    async def test_an_empty_folder_counts_and_a_missing_one_does_not(self, tmp_path: Path) -> None:
        assert await DirectorySource(tmp_path).read() == LISTED
        missing = tmp_path / "missing"
        assert await DirectorySource(missing).read() == [
            Unreadable(str(missing), "no such file or directory")
        ]
        a_file = tmp_path / "file"
        a_file.touch()
        assert await DirectorySource(a_file).read() == [Unreadable(str(a_file), "not a directory")]

    async def test_broken_files_are_named_and_the_others_read(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text(service("a"))
        (tmp_path / "b.yaml").write_text("a: [\n")
        (tmp_path / "c.yaml").symlink_to("nowhere.yaml")
        (tmp_path / "d.yaml").touch()
        os.mkfifo(tmp_path / "e.yaml")
        events = [summary(event) for event in await DirectorySource(tmp_path).read()]
        assert sorted(events[: -1 - len(LISTED)]) == [
            "unreadable b.yaml: line 1: did not find expected node content",
            "unreadable c.yaml: the link leads nowhere: no such file or directory",
            "unreadable d.yaml: the file is empty; delete it if it is to say nothing",
            "unreadable e.yaml: not a regular file",
        ]
        assert events[-1 - len(LISTED)] == A

    async def test_links_to_folders_are_followed_but_not_in_circles(self, tmp_path: Path) -> None:
        folder, other = tmp_path / "folder", tmp_path / "other"
        folder.mkdir()
        other.mkdir()
        (other / "a.yaml").write_text(service("a"))
        (folder / "link").symlink_to(other)
        assert statements(await DirectorySource(folder).read())
        (other / "back").symlink_to(folder)
        events = [summary(event) for event in await DirectorySource(folder).read()]
        assert events[:2] == [
            "unreadable back: the link leads back to a folder that contains it",
            A,
        ]

    async def test_a_linked_folder_that_is_away_takes_nothing_away(self, tmp_path: Path) -> None:
        folder, share = tmp_path / "folder", tmp_path / "share"
        folder.mkdir()
        share.mkdir()
        (share / "a.yaml").write_text(service("a"))
        (folder / "link").symlink_to(share)
        source = DirectorySource(folder)
        await source.read()
        share.rename(tmp_path / "away")
        assert [summary(event) for event in await source.read()] == [
            "unreadable link: the link leads nowhere: no such file or directory"
        ]
        (tmp_path / "away").rename(share)
        assert [summary(event) for event in await source.read()] == ["readable link"]
        (folder / "link").unlink()
        assert [summary(event) for event in await source.read()] == ["gone a"]

    @pytest.mark.parametrize("name", ["a.yaml", "sub"])
    @pytest.mark.parametrize("code", [errno.EACCES, errno.ESTALE, errno.EIO])
    async def test_what_cannot_be_looked_at_takes_nothing_away(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: int
    ) -> None:
        (tmp_path / "sub").mkdir()
        (tmp_path / "a.yaml").write_text(service("a"))
        (tmp_path / "sub" / "b.yaml").write_text(service("b"))
        source = DirectorySource(tmp_path)
        await source.read()
        with monkeypatch.context() as patch:
            answers: dict[Path, OSError | int] = {tmp_path / name: OSError(code, os.strerror(code))}
            patch.setattr(Path, "stat", told(answers))
            assert [summary(event) for event in await source.read()] == [
                f"unreadable {name}: {os.strerror(code).lower()}"
            ]
        assert [summary(event) for event in await source.read()] == [f"readable {name}"]

    async def test_a_link_that_may_not_be_followed_takes_nothing_away(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / ".a").write_text(service("a"))
        (tmp_path / "a.yaml").symlink_to(".a")
        source = DirectorySource(tmp_path)
        await source.read()
        denied = OSError(errno.EACCES, os.strerror(errno.EACCES))
        monkeypatch.setattr(Path, "stat", told({tmp_path / "a.yaml": denied}, links=False))
        assert [summary(event) for event in await source.read()] == [
            "unreadable a.yaml: the link cannot be followed: permission denied"
        ]

    async def test_a_file_that_may_be_read_again_is_read_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A change of rights does not change the time of the file."""
        (tmp_path / "a.yaml").write_text(service("a"))
        source = DirectorySource(tmp_path)

        def denied(_: Path) -> bytes:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_bytes", denied)
            events = await source.read()
        assert summary(events[0]) == "unreadable a.yaml: permission denied"
        assert [summary(event) for event in await source.read()] == [A, "readable a.yaml"]

    @pytest.mark.parametrize("name", [".", "sub"])
    async def test_a_mount_point_without_its_file_system_takes_nothing_away(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        mounted = tmp_path / name
        mounted.mkdir(exist_ok=True)
        (mounted / "a.yaml").write_text(service("a"))
        source = DirectorySource(tmp_path)
        await source.read()
        device = mounted.stat().st_dev

        (mounted / "a.yaml").rename(mounted / ".a")
        monkeypatch.setattr(Path, "stat", told({mounted: device + 1}))
        bare = "the folder is empty and on another file system than before: is it mounted?"
        events = [summary(event) for event in await source.read()]
        assert events == [f"unreadable {mounted.name}: {bare}"]
        assert await source.read() == []

        (mounted / "b.yaml").write_text(service("b"))
        assert [summary(event) for event in await source.read()] == [
            B,
            f"readable {mounted.name}",
            "gone a",
        ]
        (mounted / "b.yaml").unlink()
        assert [summary(event) for event in await source.read()] == ["gone b"]

    async def test_a_file_that_is_too_large_is_not_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(directory, "MAXIMUM_BYTES", 10)
        (tmp_path / "a.yaml").write_text(service("a"))
        (event, *_) = await DirectorySource(tmp_path).read()
        assert summary(event).endswith("bytes are more than the 10 that are read")

    async def test_an_unchanged_file_is_not_parsed_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        parsed: list[str] = []

        def counting(content: bytes, origin: str) -> Manifest:
            parsed.append(Path(origin).name)
            return read_manifest(content, origin)

        monkeypatch.setattr(directory, "read_manifest", counting)
        (tmp_path / "a.yaml").write_text(service("a"))
        (tmp_path / "b.yaml").write_text(service("b"))
        source = DirectorySource(tmp_path)
        await source.read()
        (tmp_path / "b.yaml").write_text(service("b", "10.96.0.123"))
        assert len(await source.read()) == 1
        assert await source.read() == []
        assert parsed == ["a.yaml", "b.yaml", "b.yaml"]

    async def test_a_file_that_moves_while_the_folder_is_read_is_not_missed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "z.yaml").write_text(service("a"))

        def moving(content: bytes, origin: str) -> Manifest:
            with contextlib.suppress(FileNotFoundError):
                (tmp_path / "z.yaml").rename(tmp_path / "a.yaml")
            return read_manifest(content, origin)

        monkeypatch.setattr(directory, "read_manifest", moving)
        events = await DirectorySource(tmp_path).read()
        assert summary(events[0]) == A

    async def test_what_is_passed_over_is_logged_once(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text("apiVersion: v1\nkind: Endpoints\n")
        source = DirectorySource(tmp_path)
        with structlog.testing.capture_logs() as logs:
            await source.read()
            await source.read()
        hint = "v1 Endpoints (write discovery.k8s.io/v1 EndpointSlice instead)"
        assert [entry["objects"] for entry in logs] == [{hint: 1}]

    async def test_of_two_thousand_objects_one_is_wrong_and_the_others_are_read_in_seconds(
        self, tmp_path: Path
    ) -> None:
        texts = [service(f"s{i}", f"10.96.{i // 250}.{i % 250 + 1}") for i in range(2000)]
        texts[1234] = service("s1234", "10.96.0.1234")
        (tmp_path / "all.yaml").write_text("---\n".join(texts))
        started = time.perf_counter()
        events = statements(await DirectorySource(tmp_path).read())
        assert time.perf_counter() - started < 30
        assert len(events) == 2000
        refused = [event for event in events if isinstance(event, Refused)]
        assert [summary(event) for event in refused] == [
            "refused s1234 in all.yaml: spec.clusterIP: '10.96.0.1234' is not an address"
        ]


# --------------------------------------------------------------------------- following


class Follower:
    """Takes events one by one, each within a time limit."""

    def __init__(self, events: AsyncIterator[Event]) -> None:
        self._events = events

    async def next(self) -> str:
        return summary(await asyncio.wait_for(anext(self._events), 20))

    async def several(self, count: int) -> list[str]:
        return [await self.next() for _ in range(count)]

    async def until(self, wanted: str) -> list[str]:
        """Take events up to one that is wanted; return those before it."""
        before: list[str] = []
        for _ in range(100):
            event = await self.next()
            if event == wanted:
                return before
            before.append(event)
        raise AssertionError(f"{wanted} is not among {before}")


@contextlib.asynccontextmanager
async def following(folder: Path, *, survey_seconds: float = NEVER) -> AsyncIterator[Follower]:
    source = DirectorySource(folder, survey_seconds=survey_seconds)
    async with contextlib.aclosing(source.events()) as events:
        yield Follower(events)


def save(path: Path, text: str) -> None:
    """Save as an editor does: write beside, then rename over."""
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_text(text)
    beside.replace(path)


class TestFollowing:
    """With surveys at intervals put off, so that only a notification can wake it."""

    async def test_files_that_are_added_changed_and_deleted(self, tmp_path: Path) -> None:
        async with following(tmp_path) as follower:
            assert await follower.several(len(LISTED)) == [summary(event) for event in LISTED]
            save(tmp_path / "a.yaml", service("a"))
            assert await follower.next() == A
            (tmp_path / "a.yaml").write_text(service("a", "10.96.0.11"))
            await follower.until("put a 10.96.0.11 from a.yaml")
            save(tmp_path / "a.yaml", service("a", "10.96.0.12"))
            await follower.until("put a 10.96.0.12 from a.yaml")
            (tmp_path / "a.yaml").unlink()
            assert await follower.next() == "gone a"

    async def test_a_moved_file_loses_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "sub").mkdir()
        save(tmp_path / "z.yaml", service("a"))
        async with following(tmp_path) as follower:
            await follower.several(1 + len(LISTED))
            (tmp_path / "z.yaml").rename(tmp_path / "sub" / "a.yaml")
            assert await follower.next() == A

    async def test_a_file_that_breaks_and_is_mended(self, tmp_path: Path) -> None:
        save(tmp_path / "a.yaml", service("a"))
        async with following(tmp_path) as follower:
            await follower.several(1 + len(LISTED))
            save(tmp_path / "a.yaml", "a: [")
            assert (await follower.next()).startswith("unreadable a.yaml: line 1: ")
            save(tmp_path / "a.yaml", service("b"))
            assert await follower.several(3) == [
                "put b 10.96.0.10 from a.yaml",
                "readable a.yaml",
                "gone a",
            ]

    async def test_a_config_map_whose_data_is_swapped(self, tmp_path: Path) -> None:
        (tmp_path / "..1").mkdir()
        (tmp_path / "..1" / "a.yaml").write_text(service("a"))
        (tmp_path / "..data").symlink_to("..1")
        (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
        async with following(tmp_path) as follower:
            assert (await follower.several(1 + len(LISTED)))[0] == A
            (tmp_path / "..2").mkdir()
            (tmp_path / "..2" / "a.yaml").write_text(service("a", "10.96.0.11"))
            (tmp_path / "..data_tmp").symlink_to("..2")
            (tmp_path / "..data_tmp").replace(tmp_path / "..data")
            shutil.rmtree(tmp_path / "..1")
            assert await follower.next() == "put a 10.96.0.11 from a.yaml"

    async def test_a_folder_that_is_removed_and_comes_back(self, tmp_path: Path) -> None:
        folder = tmp_path / "manifests"
        folder.mkdir()
        save(folder / "a.yaml", service("a"))
        save(folder / "b.yaml", service("b"))
        async with following(folder) as follower:
            await follower.several(2 + len(LISTED))
            folder.rename(tmp_path / "away")
            assert await follower.next() == "unreadable manifests: no such file or directory"
            beside = tmp_path / "beside"
            beside.mkdir()
            save(beside / "a.yaml", service("a", "10.96.0.11"))
            beside.rename(folder)
            assert await follower.several(3) == [
                "put a 10.96.0.11 from a.yaml",
                "readable manifests",
                "gone b",
            ]
            save(folder / "a.yaml", service("a", "10.96.0.12"))
            assert await follower.next() == "put a 10.96.0.12 from a.yaml"

    async def test_a_folder_that_appears_after_the_start(self, tmp_path: Path) -> None:
        folder = tmp_path / "manifests"
        async with following(folder, survey_seconds=0.05) as follower:
            assert await follower.next() == "unreadable manifests: no such file or directory"
            beside = tmp_path / "beside"
            beside.mkdir()
            save(beside / "a.yaml", service("a"))
            beside.rename(folder)
            assert await follower.several(3) == [A, "readable manifests", "listed Service"]

    async def test_without_notifications_the_folder_is_surveyed_at_intervals(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no_watch(*_: object, **__: object) -> None:
            raise OSError("OS file watch limit reached")

        monkeypatch.setattr(watchfiles, "awatch", no_watch)
        with structlog.testing.capture_logs() as logs:
            async with following(tmp_path, survey_seconds=0.02) as follower:
                await follower.several(len(LISTED))
                save(tmp_path / "a.yaml", service("a"))
                assert await follower.next() == A
        reasons = [entry["reason"] for entry in logs if "reason" in entry]
        assert reasons == ["OS file watch limit reached"]

    async def test_a_name_that_is_not_utf_8_ends_nothing_and_its_file_is_read(
        self, tmp_path: Path
    ) -> None:
        with structlog.testing.capture_logs() as logs:
            async with following(tmp_path, survey_seconds=0.02) as follower:
                await follower.several(len(LISTED))
                odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.yaml"))
                save(odd, service("a"))
                assert await follower.next() == "put a 10.96.0.10 from \\xff.yaml"
                save(tmp_path / "b.yaml", service("b", "10.96.0.11"))
                assert await follower.next() == "put b 10.96.0.11 from b.yaml"
        assert len([entry for entry in logs if "reason" in entry]) <= 1

    async def test_a_change_during_the_first_reading_is_not_missed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save(tmp_path / "a.yaml", service("a"))
        change: list[Callable[[], None]] = [lambda: save(tmp_path / "b.yaml", service("b"))]

        def advancing(picture: Picture, now: Reading) -> tuple[Picture, list[Event]]:
            for one in change[:]:
                change.remove(one)
                one()
            return advance(picture, now)

        monkeypatch.setattr(directory, "advance", advancing)
        async with following(tmp_path) as follower:
            assert (await follower.several(1 + len(LISTED)))[0] == A
            assert await follower.next() == B

    async def test_ends_without_leaving_anything_behind(self, tmp_path: Path) -> None:
        async with following(tmp_path) as follower:
            await follower.several(len(LISTED))
            assert len(asyncio.all_tasks()) > 1
        assert len(asyncio.all_tasks()) == 1


async def test_a_folder_without_manifests_is_told_once_each_time(tmp_path: Path) -> None:
    source = DirectorySource(tmp_path)
    file = tmp_path / "a.yaml"
    (tmp_path / "a.yaml.old").touch()
    with structlog.testing.capture_logs() as logs:
        await source.read()
        await source.read()
        file.write_text(service("a"))
        await source.read()
        file.unlink()
        await source.read()
    assert [one["event"] for one in logs] == ["no manifests in the folder"] * 2
