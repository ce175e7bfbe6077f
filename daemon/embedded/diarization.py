"""Speaker diarization without a hub token: pyannote's own pipeline around models that come as Python packages.

Segmentation is the pyannote model inside whisperx. Speaker embeddings come from the GE2E encoder (Wan et al. 2018,
arXiv:1710.10467) whose weights the package `resemblyzer` carries; only its weights are used, so that neither its C
extension nor librosa is needed.
"""

from typing import Any

import torch
import torchaudio
from pyannote.audio import Model
from pyannote.audio.core.plda import PLDA
from pyannote.audio.pipelines import SpeakerDiarization

from daemon.embedded.models import voice_encoder

# resemblyzer/hparams.py and voice_encoder.py: how the encoder was trained and is meant to be fed.
SAMPLE_RATE = 16_000
MELS = 40
HIDDEN = 256
WINDOW_FRAMES = 160  # 1.6 s
STEP_FRAMES = 77  # 1.3 windows a second
MIN_COVERAGE = 0.75  # a last window with less speech than this is left out, unless it is the only one
LEVEL_DBFS = -30.0

# Method, min_cluster_size and leaving overlapped speech out of embeddings are those of pyannote's
# speaker-diarization-3.1. The threshold is a distance between GE2E embeddings, so it had to be found: on the sample call
# of pyannote.audio every value from 0.45 to 0.50 tells the two speakers apart without being told their number.
PARAMETERS = {
    "segmentation": {"threshold": 0.5, "min_duration_off": 0.0},
    "clustering": {"method": "centroid", "threshold": 0.48, "min_cluster_size": 12},
}


class VoiceEncoder(Model):
    """The GE2E speaker encoder as a pyannote embedding model."""

    dimension = HIDDEN

    def __init__(self) -> None:
        super().__init__(sample_rate=SAMPLE_RATE)
        self.mel = torchaudio.transforms.MelSpectrogram(
            SAMPLE_RATE, n_fft=400, hop_length=160, n_mels=MELS, norm="slaney", mel_scale="slaney", pad_mode="constant"
        )
        self.lstm = torch.nn.LSTM(MELS, HIDDEN, num_layers=3, batch_first=True)
        self.linear = torch.nn.Linear(HIDDEN, HIDDEN)
        checkpoint = torch.load(voice_encoder(), map_location="cpu", weights_only=True)
        weights = checkpoint["model_state"]
        own = {name: weights[name] for name in weights if name.startswith(("lstm.", "linear."))}
        self.load_state_dict(own, strict=False)

    def forward(  # type: ignore[override]  # pyannote's embedding models all take weights like this
        self, waveforms: torch.Tensor, weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Embeddings of unit length, (batch, 256) or (batch, speakers, 256); NaN, which pyannote leaves out, of nobody.

        waveforms: (batch, 1, samples) at 16 kHz. weights: (batch, frames), or (batch, speakers, frames) for several in the
        same sound, above 0.5 where the speaker speaks; all of the waveform without.
        """
        sounds = waveforms[:, 0]
        mels = self.mel(sounds).transpose(1, 2)  # (batch, frames, mels): power, not its logarithm
        if weights is None:
            weights = mels.new_ones(mels.shape[:2])
        several = weights.dim() == 3
        active = torch.nn.functional.interpolate(weights if several else weights[:, None], size=mels.shape[1]) > 0.5
        windows = [
            _windows(mel[mask] * gain)
            for sound, mel, masks in zip(sounds, mels, active, strict=True)
            for mask, gain in zip(masks, _gains(sound, masks), strict=True)
        ]
        counts = [len(window) for window in windows]
        embeddings = torch.full((len(windows), HIDDEN), torch.nan, device=mels.device)
        if sum(counts) > 0:
            _, (hidden, _) = self.lstm(torch.cat(windows))
            partial = torch.nn.functional.normalize(torch.relu(self.linear(hidden[-1])), dim=1)
            for index, part in enumerate(torch.split(partial, counts)):
                if len(part):
                    embeddings[index] = torch.nn.functional.normalize(part.mean(0), dim=0)
        return embeddings.view(*active.shape[:2], HIDDEN) if several else embeddings


def embedded_pipeline(segmentation: Any) -> SpeakerDiarization:
    """The pipeline around a loaded segmentation model (pyannote/segmentation, as whisperx carries it).

    Raises ModelUnavailable when the encoder's package is not installed.
    """
    pipeline = SpeakerDiarization(
        segmentation=segmentation,
        embedding=VoiceEncoder(),
        embedding_exclude_overlap=True,
        clustering="AgglomerativeClustering",
        # Required by the constructor even for a clustering that never asks it.
        plda=object.__new__(PLDA),
        segmentation_batch_size=32,
        embedding_batch_size=32,
    )
    pipeline.instantiate(PARAMETERS)
    return pipeline


def _gains(sound: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """What brings each speaker to the common level: (speakers,), from (samples,) and (speakers, frames).

    As the encoder's authors do, quiet speech is raised and loud speech left alone.
    """
    active: torch.Tensor = torch.nn.functional.interpolate(masks[None].float(), size=len(sound))[0]
    power = (sound.square() * active).sum(1) / active.sum(1).clamp(min=1)
    gains: torch.Tensor = (10 ** (LEVEL_DBFS / 10) / power.clamp(min=1e-10)).clamp(min=1.0)
    return gains


def _windows(mel: torch.Tensor) -> torch.Tensor:
    """Windows (count, 160, mels) over the frames (frames, mels) in which a speaker speaks; none of no frames."""
    frames = len(mel)
    if frames == 0:
        return mel.new_zeros((0, WINDOW_FRAMES, MELS))
    full = max(0, frames - WINDOW_FRAMES)
    starts = list(range(0, full + STEP_FRAMES, STEP_FRAMES))
    if len(starts) > 1 and frames - starts[-1] < MIN_COVERAGE * WINDOW_FRAMES:
        starts.pop()
    padded = torch.nn.functional.pad(mel, (0, 0, 0, max(0, starts[-1] + WINDOW_FRAMES - frames)))
    return torch.stack([padded[start : start + WINDOW_FRAMES] for start in starts])
