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
from daemon.pipeline.encoding import encode
from daemon.pipeline.engine import Engine
from daemon.pipeline.lanes import Lanes
from daemon.pipeline.pieces import Chunk, Passage
from daemon.pipeline.reporter import Nobody
from daemon.pipeline.settings import RunnerSettings
from daemon.pipeline.slots import Slot
from daemon.pipeline.whisper_models import WhisperModels
from daemon.pipeline.work import Watch

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
    """Loads the default models of all stages. Each is for one job at a time, but for Whisper, which the engine shares out.

    Raises SetupFailed, ModelUnavailable, OutOfMemory or DeviceFault.
    """

    def __init__(self, settings: RunnerSettings) -> None:
        self.batch_size = settings.batch_size
        self.default_model = settings.model
        self.short_context_models = frozenset(settings.short_context_models)
        self.device = choose_device(settings.device, settings.compute_type, settings.cpu_threads)
        self.whisper = WhisperModels(
            (settings.model, *settings.models), settings.models_resident, self.device, settings.hf_token
        )
        self.engine = Engine(self.whisper, self.device)
        self.lanes = Lanes(self.device.lanes)
        self.detector_slot, self.aligner_slot, self.diarizer_slot = Slot(), Slot(), Slot()
        self.detector = vad.SpeechDetector(self.device, self.lanes)
        self.diarizer = Diarizer(
            settings.diarization_model, self.detector.model, self.device, self.lanes, settings.hf_token
        )
        self.aligners = Aligners(settings.alignment_models, self.device)
        self.aligners.load_configured()

    def warm_up(self, audio: np.ndarray, chunks: Sequence[Chunk]) -> None:
        """Run every model once over `audio`: the first call allocates memory, picks kernels, and shows what is broken."""
        speech = self.detector.detect(audio, lambda _: None)
        watch, model = Watch(Nobody()), model_name(self.default_model)
        with self.engine.session(model, self.batch_size, watch) as whisper:
            encoded = encode(whisper, audio, chunks)
            if whisper.about.multilingual:
                whisper.detect_languages(encoded)
            decoder = Decoder(whisper, _WARM_UP_OPTIONS, "en")
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
