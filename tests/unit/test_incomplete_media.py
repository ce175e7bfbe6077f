"""What cannot be read of a recording is reported: with the length decoded and the length declared."""

import io
from pathlib import Path

import av
import numpy as np
import pytest

from daemon.media.decoder_pool import MEDIA_INCOMPLETE, Audio, _warnings
from daemon.media.endings import cut_unit
from daemon.media.source import Section, stated_bytes
from tests.support.media.decoding import decoded, signal_to_noise
from tests.support.media.files import RATE, Sound, chirp, make_recording, make_tracks, make_wav, speech
from tests.support.media.kinds import KINDS, Kind

UNITS = {"aac": "frame", "ogg": "page", "opus": "page", "ts": "packet", "amr": "frame"}  # of files that state no length
INDEX_AT_THE_END = {"m4a", "mp4", "mov", "3gp"}


def messages(audio: Audio) -> list[str]:
    assert {warning.code for warning in audio.warnings} <= {MEDIA_INCOMPLETE}
    assert {warning.stage for warning in audio.warnings} <= {"decode"}
    return [warning.message for warning in audio.warnings]


def cut(path: Path, share: float = 0.6) -> Path:
    path.write_bytes(path.read_bytes()[: round(path.stat().st_size * share) | 1])  # odd: not between two packets
    return path


@pytest.mark.parametrize("kind", KINDS, ids=str)
async def test_cut_file_is_reported_and_whole_file_is_not(tmp_path: Path, kind: Kind) -> None:
    said = speech(seconds=6)
    stereo = np.stack([said, said], axis=1) if kind.more.get("layout") == "stereo" else said
    path = kind.make(tmp_path / "a", stereo)
    whole, _ = await decoded(path)
    assert messages(whole) == []
    if kind.suffix in INDEX_AT_THE_END:
        return
    part, _ = await decoded(cut(path))
    assert part.duration_seconds < 4.5
    (message,) = messages(part)
    if unit := UNITS.get(kind.suffix):
        assert message.startswith(
            f"{part.duration_seconds:.1f} s were decoded; the file ends inside a {unit}: it is cut off"
        )
    else:
        declared = float(message.partition("declares ")[2].partition(" s")[0])
        assert message.startswith(f"{part.duration_seconds:.1f} s were decoded; ")
        assert declared == pytest.approx(whole.duration_seconds, abs=0.5)


def test_file_is_cut_at_every_place_but_between_two_units(tmp_path: Path) -> None:
    said = speech(seconds=2)
    for kind in KINDS:
        if kind.suffix in UNITS:
            content = kind.make(
                tmp_path / "a", np.stack([said, said], axis=1) if "layout" in kind.more else said
            ).read_bytes()
            inside = [unit_of(content[:size]) == UNITS[kind.suffix] for size in range(len(content) // 2, len(content))]
            assert 0.98 * len(inside) < sum(inside) + EVEN.get(kind.suffix, 0) * len(inside), str(kind)
            assert unit_of(content) is None
            assert unit_of(content + b"TAG" + bytes(125)) is None or kind.suffix in ("amr", "ts")


EVEN = {"amr": 1 / 32}  # share of the places in an AMR file that are between two frames


def unit_of(content: bytes) -> str | None:
    return cut_unit(Section.whole(io.BytesIO(content)))


@pytest.mark.parametrize(
    "content", [b"", b"#!AMR\n", b"\xff\xf1", bytes(1000), b"RIFF" + bytes(100), b"G" + bytes(999)]
)
def test_other_files_prove_nothing(content: bytes) -> None:
    assert unit_of(content) is None


@pytest.mark.parametrize("flags", ["faststart", "frag_keyframe+empty_moov+default_base_moof"])
async def test_cut_mp4_with_its_index_at_the_start(tmp_path: Path, flags: str) -> None:
    path = make_tracks(tmp_path / "a.mp4", [speech(seconds=6)], "aac", muxer={"movflags": flags})
    audio, _ = await decoded(path)
    assert messages(audio) == []
    audio, _ = await decoded(cut(path))
    assert any(f"declares {length} s" in messages(audio)[0] for length in (5.9, 6.0, 6.1))


async def test_cut_recording_with_a_picture(tmp_path: Path) -> None:
    audio, _ = await decoded(cut(make_recording(tmp_path / "a.mkv", chirp(6))))
    assert "declares 6.0 s" in messages(audio)[0]


async def test_damage_in_the_middle_is_reported_from_a_second_on(tmp_path: Path) -> None:
    path = make_tracks(tmp_path / "a.mkv", [speech(0, 10)], "flac", form="matroska")
    with av.open(str(path)) as container:
        packets = [(packet.pos or 0, packet.size) for packet in container.demux(audio=0) if packet.size]
    content = bytearray(path.read_bytes())
    for number, (position, size) in enumerate(packets):
        if number % 5 == 2:
            begin = content.index(content[position + 20 : position + size], position)
            content[begin : begin + size - 20] = bytes(size - 20)
    path.write_bytes(content)
    audio, sound = await decoded(path)
    assert len(sound) == pytest.approx(10 * RATE, abs=RATE / 4)
    assert "s of sound are damaged and were left out" in messages(audio)[0]


def test_sizes_that_stand_for_unknown_promise_nothing(tmp_path: Path) -> None:
    content = make_wav(tmp_path / "a.wav").read_bytes()
    assert stated_bytes(content) == len(content)
    for size in (0, 0x7FFFFFFF, 0xFFFFFFFF):
        assert stated_bytes(content[:4] + size.to_bytes(4, "little") + content[8:]) in (0, 8)
    assert stated_bytes(b"") == 0


# --- chains -------------------------------------------------------------------------------------------------------


def ogg(path: Path, codec: str, channels: int, sound: Sound) -> bytes:
    layout = {1: "mono", 2: "stereo"}[channels]
    sound = np.stack([sound] * channels, axis=1) if channels > 1 else sound
    rate = RATE if codec == "flac" else 48_000
    return make_tracks(path, [sound], codec, rate=rate, layout=layout, form="ogg").read_bytes()


async def test_links_of_a_chain_may_differ_in_everything(tmp_path: Path) -> None:
    kinds = [("libopus", 1), ("libopus", 2), ("flac", 1), ("flac", 2), ("libopus", 1)]
    parts = [ogg(tmp_path / "part.ogg", *kind, speech(seconds=2)) for kind in kinds]
    (tmp_path / "a.ogg").write_bytes(b"".join(parts))
    audio, sound = await decoded(tmp_path / "a.ogg")
    assert messages(audio) == []
    assert len(sound) == pytest.approx(10 * RATE, abs=RATE // 50)
    for number in range(5):
        link = sound[2 * number * RATE : 2 * (number + 1) * RATE]
        assert signal_to_noise(link, speech(seconds=2)) > 15


async def test_link_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    first, last = (ogg(tmp_path / "part.ogg", "libopus", count, speech(seconds=2)) for count in (1, 2))
    damaged = bytearray(ogg(tmp_path / "part.ogg", "flac", 1, speech(seconds=2)))
    damaged[28:2000] = bytes(1972)
    (tmp_path / "a.ogg").write_bytes(first + damaged + last)
    audio, sound = await decoded(tmp_path / "a.ogg")
    assert len(sound) == pytest.approx(4 * RATE, abs=RATE // 50)
    assert "1 of its 3 parts cannot be read" in messages(audio)[0]


# --- the parent's side --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("found", [None, 1, "text", [1, None, []], [{"code": "evil", "message": "m"}], [{"code": []}]])
def test_invalid_warnings_of_the_child_are_left_out(found: object) -> None:
    assert list(_warnings(found)) == []


def test_text_of_the_childs_warnings_is_bounded() -> None:
    (warning,) = _warnings([{"code": MEDIA_INCOMPLETE, "message": "\x1b" * 5000}] * 3)
    assert warning.message == " " * 500
