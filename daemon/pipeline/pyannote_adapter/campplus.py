"""The CAM++ speaker encoder (Wang et al. 2023, arXiv:2303.00332) as a pyannote embedding model.

The layers and their names follow the implementation of 3D-Speaker, because its weights depend on them:
https://github.com/modelscope/3D-Speaker, Copyright 3D-Speaker, Apache License 2.0.
"""

from collections import OrderedDict, defaultdict

import torch
from pyannote.audio import Model
from torch import Tensor, nn
from torch.nn import functional
from torchaudio.compliance import kaldi

from daemon.weights.packaged import CAMPPLUS

SAMPLE_RATE = 16_000
MELS = 80
DIMENSION = 192

HEAD_CHANNELS = 32
CHANNELS = 128  # of the first layer, and of each dense layer's bottleneck
GROWTH = 32  # channels that each dense layer adds
BLOCKS = ((12, 1), (24, 2), (16, 2))  # dense layers and their dilation
CONTEXT_FRAMES = 100  # each frame is masked according to so many around it, and to all

# In frames of 10 ms. Fewer of them say little about a voice.
MIN_FRAMES = 25
MIN_SAMPLES = 400 + (MIN_FRAMES - 1) * 160  # a frame has 25 ms
# Lengths are rounded down, so that a GPU finds many pieces of equal length to compute at once.
LENGTH_FRAMES = 10


class CamPlusPlus(Model):
    """The speaker encoder. It hears the frames of one speaker only, cut out of the window and joined.

    Masking the frames in the pooling layer instead makes twice as many errors: each layer sees its neighborhood.
    """

    dimension = DIMENSION

    def __init__(self) -> None:
        super().__init__(sample_rate=SAMPLE_RATE)
        self.network = Network()
        self.network.load_state_dict(torch.load(CAMPPLUS.path(), map_location="cpu", weights_only=True))

    def forward(  # type: ignore[override]  # the signature of pyannote's embedding models
        self, waveforms: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        """Compute unit-length embeddings, (batch, 192) or (batch, speakers, 192). pyannote skips NaN: too little speech.

        waveforms: (batch, 1, samples) at 16 kHz. weights: (batch, frames), or (batch, speakers, frames) for several
        speakers in the same audio; above 0.5 where the speaker is active. Without weights, uses the whole waveform;
        raises ValueError if it is too short, from which pyannote learns how much speech is enough.
        """
        several = weights is not None and weights.dim() == 3
        if weights is None:
            if waveforms.shape[-1] < MIN_SAMPLES:
                raise ValueError(f"{waveforms.shape[-1]} samples; at least {MIN_SAMPLES} are needed")
            weights = waveforms.new_ones(len(waveforms), 1, 1)
        elif not several:
            weights = weights[:, None]
        embeddings = waveforms.new_full((*weights.shape[:2], DIMENSION), torch.nan)
        for places, pieces in self._pieces(waveforms, weights).values():
            batch, speaker = torch.tensor(places, device=embeddings.device).unbind(1)
            embeddings[batch, speaker] = functional.normalize(self.network(torch.stack(pieces)))
        return embeddings if several else embeddings[:, 0]

    def _pieces(self, waveforms: Tensor, weights: Tensor) -> dict[int, tuple[list[tuple[int, int]], list[Tensor]]]:
        """Cut out what each speaker says, grouped by length: place (batch, speaker) and features (frames, mels)."""
        pieces: dict[int, tuple[list[tuple[int, int]], list[Tensor]]] = defaultdict(lambda: ([], []))
        for at, (waveform, speakers) in enumerate(zip(waveforms, weights, strict=True)):
            features = kaldi.fbank(waveform, num_mel_bins=MELS, sample_frequency=SAMPLE_RATE)
            active = functional.interpolate(speakers[None], size=len(features))[0] > 0.5
            for speaker, mask in enumerate(active):
                own = features[mask]
                if len(own) >= MIN_FRAMES:
                    own = own[: len(own) // LENGTH_FRAMES * LENGTH_FRAMES]
                    places, found = pieces[len(own)]
                    places.append((at, speaker))
                    found.append(own - own.mean(dim=0))
        return pieces


class Network(nn.Module):
    """Log-mel features, (batch, frames, mels), to embeddings, (batch, 192)."""

    def __init__(self) -> None:
        super().__init__()
        self.head = Head()
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            tdnn=Normalized(self.head.outputs, CHANNELS, size=5, stride=2)
        )
        channels = CHANNELS
        for index, (count, dilation) in enumerate(BLOCKS, 1):
            dense = (Dense(channels + before * GROWTH, dilation) for before in range(count))
            layers[f"block{index}"] = nn.Sequential(OrderedDict((f"tdnnd{n}", it) for n, it in enumerate(dense, 1)))
            channels += count * GROWTH
            layers[f"transit{index}"] = Transition(channels)
            channels //= 2
        layers["out_nonlinear"] = normalization(channels)
        layers["stats"] = Statistics()
        layers["dense"] = Normalized(2 * channels, DIMENSION, affine=False)
        self.xvector = nn.Sequential(layers)

    def forward(self, features: Tensor) -> Tensor:
        embeddings: Tensor = self.xvector(self.head(features.transpose(1, 2)))
        return embeddings[..., 0]


class Head(nn.Module):
    """Two-dimensional convolutions, which reduce the mel bands eightfold."""

    outputs = HEAD_CHANNELS * MELS // 8

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, HEAD_CHANNELS, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(HEAD_CHANNELS)
        self.layer1 = nn.Sequential(Residual(stride=2), Residual(stride=1))
        self.layer2 = nn.Sequential(Residual(stride=2), Residual(stride=1))
        self.conv2 = nn.Conv2d(HEAD_CHANNELS, HEAD_CHANNELS, 3, stride=(2, 1), padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(HEAD_CHANNELS)

    def forward(self, mels: Tensor) -> Tensor:
        found = torch.relu(self.bn1(self.conv1(mels[:, None])))
        found = self.layer2(self.layer1(found))
        return torch.relu(self.bn2(self.conv2(found))).flatten(1, 2)


class Residual(nn.Module):
    def __init__(self, stride: int) -> None:
        super().__init__()
        channels = HEAD_CHANNELS
        self.conv1 = nn.Conv2d(channels, channels, 3, stride=(stride, 1), padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride > 1:
            reduce = nn.Conv2d(channels, channels, 1, stride=(stride, 1), bias=False)
            self.shortcut = nn.Sequential(reduce, nn.BatchNorm2d(channels))

    def forward(self, inputs: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(inputs)))))
        return torch.relu(inner + self.shortcut(inputs))


class Dense(nn.Module):
    """A time-delay layer with a context-aware mask. Adds its output to its input's channels."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.nonlinear1 = normalization(channels)
        self.linear1 = nn.Conv1d(channels, CHANNELS, 1, bias=False)
        self.nonlinear2 = normalization(CHANNELS)
        self.cam_layer = ContextMask(dilation)

    def forward(self, inputs: Tensor) -> Tensor:
        bottleneck = self.nonlinear2(self.linear1(self.nonlinear1(inputs)))
        return torch.cat([inputs, self.cam_layer(bottleneck)], dim=1)


class ContextMask(nn.Module):
    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.linear_local = nn.Conv1d(CHANNELS, GROWTH, 3, padding=dilation, dilation=dilation, bias=False)
        self.linear1 = nn.Conv1d(CHANNELS, CHANNELS // 2, 1)
        self.linear2 = nn.Conv1d(CHANNELS // 2, GROWTH, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        context = functional.avg_pool1d(inputs, CONTEXT_FRAMES, CONTEXT_FRAMES, ceil_mode=True)
        context = context + inputs.mean(dim=-1, keepdim=True)
        mask = torch.sigmoid(self.linear2(torch.relu(self.linear1(context))))
        local: Tensor = self.linear_local(inputs)
        return local * mask.repeat_interleave(CONTEXT_FRAMES, dim=-1)[..., : inputs.shape[-1]]


class Transition(nn.Module):
    """Halves the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.nonlinear = normalization(channels)
        self.linear = nn.Conv1d(channels, channels // 2, 1, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.linear(self.nonlinear(inputs))
        return found


class Normalized(nn.Module):
    """A convolution and its normalization; with `affine`, a rectified one."""

    def __init__(self, inputs: int, outputs: int, *, size: int = 1, stride: int = 1, affine: bool = True) -> None:
        super().__init__()
        self.linear = nn.Conv1d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False)
        self.nonlinear = normalization(outputs, affine=affine)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.nonlinear(self.linear(inputs))
        return found


class Statistics(nn.Module):
    """Mean and standard deviation over time: (batch, 2 × channels, 1)."""

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.cat([inputs.mean(dim=-1), inputs.std(dim=-1)], dim=-1)[..., None]


def normalization(channels: int, *, affine: bool = True) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict(batchnorm=nn.BatchNorm1d(channels, affine=affine))
    if affine:
        layers["relu"] = nn.ReLU()
    return nn.Sequential(layers)
