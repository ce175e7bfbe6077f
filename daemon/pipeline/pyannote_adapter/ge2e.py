"""The GE2E speaker encoder (Wan et al. 2018, arXiv:1710.10467) as a pyannote embedding model.

Only the weights of the package `resemblyzer` are used, so neither its C extension nor librosa is needed.
"""

import torch
import torchaudio
from pyannote.audio import Model

from daemon.weights.packaged import GE2E

# From resemblyzer/hparams.py and voice_encoder.py: the encoder's training and inference parameters.
SAMPLE_RATE = 16_000
MELS = 40
HIDDEN = 256
WINDOW_FRAMES = 160  # 1.6 s
STEP_FRAMES = 77  # hop: 1.3 windows per second
MIN_COVERAGE = 0.75  # drop a last window with less speech than this, unless it is the only one
LEVEL_DBFS = -30.0


class Ge2e(Model):
    """The speaker encoder."""

    dimension = HIDDEN

    def __init__(self) -> None:
        super().__init__(sample_rate=SAMPLE_RATE)
        self.mel = torchaudio.transforms.MelSpectrogram(
            SAMPLE_RATE, n_fft=400, hop_length=160, n_mels=MELS, norm="slaney", mel_scale="slaney", pad_mode="constant"
        )
        self.lstm = torch.nn.LSTM(MELS, HIDDEN, num_layers=3, batch_first=True)
        self.linear = torch.nn.Linear(HIDDEN, HIDDEN)
        checkpoint = torch.load(GE2E.path(), map_location="cpu", weights_only=True)
        weights = checkpoint["model_state"]
        own = {name: weights[name] for name in weights if name.startswith(("lstm.", "linear."))}
        self.load_state_dict(own, strict=False)

    def forward(  # type: ignore[override]  # the signature of pyannote's embedding models
        self, waveforms: torch.Tensor, weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Compute unit-length embeddings, (batch, 256) or (batch, speakers, 256). pyannote skips NaN: no speech.

        waveforms: (batch, 1, samples) at 16 kHz. weights: (batch, frames), or (batch, speakers, frames) for several
        speakers in the same audio; above 0.5 where the speaker is active. Without weights, uses the whole waveform.
        """
        sounds = waveforms[:, 0]
        mels = self.mel(sounds).transpose(1, 2)  # (batch, frames, mels): power, not log power
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


def _gains(sound: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Compute the gain that brings each speaker to LEVEL_DBFS: (speakers,), from (samples,) and (speakers, frames).

    Like the encoder's authors, amplify quiet speech and leave loud speech unchanged.
    """
    active: torch.Tensor = torch.nn.functional.interpolate(masks[None].float(), size=len(sound))[0]
    power = (sound.square() * active).sum(1) / active.sum(1).clamp(min=1)
    gains: torch.Tensor = (10 ** (LEVEL_DBFS / 10) / power.clamp(min=1e-10)).clamp(min=1.0)
    return gains


def _windows(mel: torch.Tensor) -> torch.Tensor:
    """Cut a speaker's active frames, (frames, mels), into windows, (count, 160, mels). No frames give no windows."""
    frames = len(mel)
    if frames == 0:
        return mel.new_zeros((0, WINDOW_FRAMES, MELS))
    full = max(0, frames - WINDOW_FRAMES)
    starts = list(range(0, full + STEP_FRAMES, STEP_FRAMES))
    if len(starts) > 1 and frames - starts[-1] < MIN_COVERAGE * WINDOW_FRAMES:
        starts.pop()
    padded = torch.nn.functional.pad(mel, (0, 0, 0, max(0, starts[-1] + WINDOW_FRAMES - frames)))
    return torch.stack([padded[start : start + WINDOW_FRAMES] for start in starts])
