"""Part of the decoder process: the containers that it opens, by the names of FFmpeg's demuxers.

FFmpeg has about 370 demuxers. Most of them read games' files, pictures, texts that refer to other files, or programs that
generate sound without end, such as `.sbg`. Recordings come in these.
"""

VIDEO = "mov matroska asf avi flv mpegts mpeg mxf dv dhav rm nut"  # `mov` also stands for MP4, M4A and 3GP, `matroska` for WebM
LOSSLESS = "wav w64 aiff caf au flac wv ape tta dsf voc sox nistsphere"  # `wav` also stands for RF64 and BW64
COMPRESSED = "ogg mp3 aac loas ac3 eac3 amr amrnb amrwb qcp ilbc dss"

CONTAINERS = ",".join(f"{VIDEO} {LOSSLESS} {COMPRESSED}".split())
