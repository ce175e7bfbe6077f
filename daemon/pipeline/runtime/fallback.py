"""Fallbacks of a job when a library fails: smaller batches, then the next best method, with a warning for each."""

import logging
from collections.abc import Callable, Iterable
from typing import TypeVar

from daemon.errors import DeviceFault, OutOfMemory, TranscriptdError
from daemon.pipeline.runtime.device import Failure, classify, free_memory
from daemon.schema.transcript import TranscriptWarning
from daemon.telemetry.redaction import describe, describe_with_type

log = logging.getLogger("transcriptd.pipeline.fallback")

T = TypeVar("T")


class FallbackPolicy:
    """Fallbacks and warnings of one job."""

    def __init__(self) -> None:
        self._raised: list[TranscriptWarning] = []
        self._limits: dict[str, int] = {}

    def with_memory(self, stage: str, size: int, action: Callable[[int], T]) -> T:
        """Call `action(size)`, halving the batch size each time memory runs out. The stage keeps the reduced size.

        Raises OutOfMemory or DeviceFault. Other errors propagate unchanged.
        """
        size = min(size, self._limits.get(stage, size))
        while True:
            try:
                return action(size)
            except TranscriptdError:
                raise
            except Exception as error:
                failure = classify(error)
                if failure is Failure.DEVICE:
                    raise DeviceFault(f"CUDA failed in {stage}: {describe(error)}") from error
                if failure is Failure.OTHER:
                    raise
                if size == 1:
                    raise OutOfMemory(
                        f"not enough memory for {stage} even at batch size 1: {describe(error)}"
                    ) from error
            # Retry outside the except block: the exception's frames keep the failed attempt's memory allocated.
            size //= 2
            self._limits[stage] = size
            self.warn("batch_reduced", stage, f"not enough memory; continued with batch size {size}")
            free_memory()

    def or_none(
        self, action: Callable[[], T], code: str, stage: str, consequence: str, *, memory_matters: bool = True
    ) -> T | None:
        """Call `action()`. If a library fails, add a warning and return None; the caller then uses the next method.

        OutOfMemory is raised, unless `memory_matters` is False because the next method needs less memory.
        """
        try:
            return action()
        except OutOfMemory as error:
            if memory_matters:
                raise
            self._failed(error, code, stage, consequence)
        except TranscriptdError:
            raise
        except Exception as error:  # the job has a fallback for any library error
            if classify(error) is not Failure.OTHER:
                raise  # handled by the enclosing with_memory
            self._failed(error, code, stage, consequence)
        free_memory()
        return None

    def _failed(self, error: Exception, code: str, stage: str, consequence: str) -> None:
        log.warning("stage failed", extra={"stage": stage, "warning": code}, exc_info=error)
        self.warn(code, stage, f"{stage} failed ({describe_with_type(error)}); {consequence}")

    # --- warnings -------------------------------------------------------------------------------------------------

    def warn(self, code: str, stage: str, message: str) -> None:
        self._raised.append(TranscriptWarning(code=code, stage=stage, message=message))

    def repeat(self, warnings: Iterable[TranscriptWarning]) -> None:
        """Add the warnings stored with a checkpoint, so that a resumed job reports them too."""
        self._raised += warnings

    def mark(self) -> int:
        """Return a position for `warnings(since=...)`."""
        return len(self._raised)

    def warnings(self, since: int = 0) -> list[TranscriptWarning]:
        """Return the last warning of each code and stage: a batch size reduced twice is reported once."""
        return list({(warning.code, warning.stage): warning for warning in self._raised[since:]}.values())
