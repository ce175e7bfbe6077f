"""What a job does when a library fails: less memory at a time, else the next best method; and what it says about it."""

import logging
from collections.abc import Callable, Iterable
from typing import TypeVar

from daemon.errors import DeviceFault, OutOfMemory, TranscriptdError
from daemon.pipeline.devices import Failure, classify, free_memory
from daemon.transcript import TranscriptWarning

log = logging.getLogger("transcriptd.pipeline.ladder")

T = TypeVar("T")


class Ladder:
    """One job's steps down."""

    def __init__(self) -> None:
        self._raised: list[TranscriptWarning] = []
        self._limits: dict[str, int] = {}

    def with_memory(self, stage: str, size: int, action: Callable[[int], T]) -> T:
        """`action(size)`, again with half the batch size as long as memory runs out; the stage then stays at that size.

        Raises OutOfMemory, DeviceFault, or as it is what is neither.
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
                    raise DeviceFault(f"CUDA failed in {stage}: {error}") from error
                if failure is Failure.OTHER:
                    raise
                if size == 1:
                    raise OutOfMemory(f"not enough memory for {stage} even at batch 1: {error}") from error
            # Only here is the memory free that the failed attempt's frames held.
            size //= 2
            self._limits[stage] = size
            self.warn("batch_reduced", stage, f"not enough memory; went on with batches of {size}")
            free_memory()

    def or_none(
        self, action: Callable[[], T], code: str, stage: str, consequence: str, *, memory_matters: bool = True
    ) -> T | None:
        """`action()`; a failure of a library becomes a warning and None, and the caller takes the next best method.

        OutOfMemory is raised, unless memory does not matter because the next best method needs less.
        """
        try:
            return action()
        except OutOfMemory as error:
            if memory_matters:
                raise
            self._failed(error, code, stage, consequence)
        except TranscriptdError:
            raise
        except Exception as error:  # whatever a library raises here, the job has another way to go on
            if classify(error) is not Failure.OTHER:
                raise  # for with_memory around it
            self._failed(error, code, stage, consequence)
        free_memory()
        return None

    def _failed(self, error: Exception, code: str, stage: str, consequence: str) -> None:
        log.warning("stage failed", extra={"stage": stage, "warning": code}, exc_info=error)
        self.warn(code, stage, f"{stage} failed ({type(error).__name__}: {error}); {consequence}")

    # --- warnings -------------------------------------------------------------------------------------------------

    def warn(self, code: str, stage: str, message: str) -> None:
        self._raised.append(TranscriptWarning(code=code, stage=stage, message=message))

    def repeat(self, warnings: Iterable[TranscriptWarning]) -> None:
        """Take over what an earlier delivery warned of in a part that is not done again."""
        self._raised += warnings

    def mark(self) -> int:
        """A point from which to count warnings."""
        return len(self._raised)

    def warnings(self, since: int = 0) -> list[TranscriptWarning]:
        """One for each code and stage: the last, since a batch reduced twice is one fact to the reader."""
        return list({(warning.code, warning.stage): warning for warning in self._raised[since:]}.values())
