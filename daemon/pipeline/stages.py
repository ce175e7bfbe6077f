"""The models of all stages, loaded once per process."""

from collections.abc import Sequence

import numpy as np

from daemon.pipeline.alignment.wav2vec2 import Aligners
from daemon.pipeline.asr.decoding import WhisperDecoder
from daemon.pipeline.asr.encoding import encode
from daemon.pipeline.asr.engine import Engine
from daemon.pipeline.asr.whisper_models import WhisperModels
from daemon.pipeline.diarization.diarizer import Diarizer
from daemon.pipeline.runtime.device import choose_device
from daemon.pipeline.runtime.model_lock import ModelLock
from daemon.pipeline.runtime.plain_weights import allow_pyannote_checkpoints
from daemon.pipeline.runtime.reporter import NullReporter
from daemon.pipeline.runtime.work import StageTimer
from daemon.pipeline.runtime.worker_pool import WorkerPool
from daemon.pipeline.speech import detector as vad
from daemon.pipeline.types import Chunk, Passage
from daemon.protocol.runner_settings import RunnerSettings
from daemon.schema.catalog import model_name
from daemon.schema.options import JobOptions
from daemon.weights.verified import VerifiedWeights

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
    """Load the default model of each stage. A model serves one job at a time, except Whisper, which the engine shares.

    Raises SetupFailed, ModelUnavailable, OutOfMemory or DeviceFault.
    """

    def __init__(self, settings: RunnerSettings, weights: VerifiedWeights) -> None:
        allow_pyannote_checkpoints()
        self.batch_size = settings.batch_size
        self.default_model = settings.model
        self.unpadded_models = frozenset(settings.unpadded_models)
        self.device = choose_device(settings.device, settings.compute_type, settings.cpu_threads)
        self.whisper = WhisperModels(
            (settings.model, *settings.models), settings.max_loaded_models, self.device, settings.hf_token, weights
        )
        self.engine = Engine(self.whisper, self.device)
        self.lanes = WorkerPool(self.device.lanes)
        self.detector_lock, self.aligner_lock, self.diarizer_lock = ModelLock(), ModelLock(), ModelLock()
        self.detector = vad.SpeechDetector(self.device, self.lanes)
        self.diarizer = Diarizer(
            settings.diarization_model, self.detector.model, self.device, self.lanes, settings.hf_token, weights
        )
        self.aligners = Aligners(settings.alignment_models, self.device, weights)
        self.aligners.load_configured()

    def warm_up(self, audio: np.ndarray, chunks: Sequence[Chunk]) -> None:
        """Run every model once on `audio`: the first call allocates memory, selects kernels and exposes faults."""
        speech = self.detector.detect(audio, lambda _: None)
        timer, model = StageTimer(NullReporter()), model_name(self.default_model)
        with self.engine.session(model, self.batch_size, timer) as whisper:
            encoded = encode(whisper, audio, chunks)
            if whisper.about.multilingual:
                whisper.detect_languages(encoded)
            decoder = WhisperDecoder(whisper, _WARM_UP_OPTIONS, "en")
            decoder.decode(encoded, audio, chunks)
            passages = [Passage(chunk, " warm up", None, decoder.tokens(" warm up"), language="en") for chunk in chunks]
            decoder.align(encoded, audio, passages)
        for aligner in self.aligners.loaded():
            aligner.align(passages[:1], audio)
        self.diarizer.diarize(audio, speech.segmentation, lambda _: None)

    def names(self, asr: str) -> dict[str, str]:
        """Return the model name of each stage."""
        align = ",".join(aligner.name for aligner in self.aligners.loaded()) or ATTENTION
        return {"vad": vad.NAME, "asr": asr, "align": align, "diarize": self.diarizer.name}
