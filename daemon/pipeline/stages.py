"""The models of every stage, as one process keeps them."""

from collections.abc import Sequence

import numpy as np

from daemon.catalog import model_name
from daemon.options import JobOptions
from daemon.pipeline import vad
from daemon.pipeline.alignment import Aligners
from daemon.pipeline.asr import Decoder
from daemon.pipeline.devices import choose_device
from daemon.pipeline.diarization import Diarizer
from daemon.pipeline.encoding import detect_languages, encode
from daemon.pipeline.pieces import Chunk, Passage
from daemon.pipeline.settings import RunnerSettings
from daemon.pipeline.whisper_models import WhisperModels

ATTENTION = "attention"


_WARM_UP_OPTIONS = JobOptions(
    model="",
    task="transcribe",
    language="en",
    diarize=True,
    num_speakers=None,
    min_speakers=None,
    max_speakers=None,
    formats=[],
    align="auto",
    channels="mix",
    redact=[],
    profanity="keep",
    audio_track=None,
    initial_prompt=None,
    hotwords=None,
    vocabulary=[],
    suppress_numerals=False,
    multilingual=False,
)


class Stages:
    """Loads the default models of all stages.

    Raises SetupFailed, ModelUnavailable, OutOfMemory or DeviceFault.
    """

    def __init__(self, settings: RunnerSettings) -> None:
        self.batch_size = settings.batch_size
        self.default_model = settings.model
        self.device = choose_device(settings.device, settings.compute_type, settings.cpu_threads)
        self.whisper = WhisperModels(
            (settings.model, *settings.models), settings.models_resident, self.device, settings.hf_token
        )
        self.detector = vad.SpeechDetector(self.device)
        self.diarizer = Diarizer(settings.diarization_model, self.detector.model, self.device, settings.hf_token)
        self.aligners = Aligners(settings.alignment_models, self.device)
        self.aligners.load_configured()

    def warm_up(self, audio: np.ndarray, chunks: Sequence[Chunk]) -> None:
        """Run every model once over `audio`: the first call allocates memory, picks kernels, and shows what is broken."""
        model = self.whisper.get(model_name(self.default_model))
        speech = self.detector.detect(audio, lambda _: None)
        encoded = encode(model, audio, chunks)
        if model.model.is_multilingual:
            detect_languages(model, encoded)
        decoder = Decoder(model, _WARM_UP_OPTIONS, "en")
        decoder.decode(encoded, audio, chunks)
        passages = [Passage(chunk, " warm up", None, decoder.tokens(" warm up"), language="en") for chunk in chunks]
        decoder.align(encoded, passages)
        for aligner in self.aligners.loaded():
            aligner.align(passages[:1], audio)
        self.diarizer.diarize(audio, speech.segmentation, lambda _: None)

    def names(self, asr: str) -> dict[str, str]:
        """Stage → the name of its model."""
        align = ",".join(aligner.name for aligner in self.aligners.loaded()) or ATTENTION
        return {"vad": vad.NAME, "asr": asr, "align": align, "diarize": self.diarizer.name}
