"""What a program may use."""

import math
import resource
from dataclasses import dataclass, fields

from codd_lightning.errors import UserError

MIB = 2**20
MOST_SECONDS = 86_400.0
LEAST_MEMORY_MIB = 32  # an interpreter does not start with less


@dataclass(frozen=True)
class Limits:
    """What one run may use, all of its processes together unless said otherwise.

    Attributes:
        seconds: wall clock; also CPU time of each process, rounded up.
        memory_mib: address space of each process, and anonymous memory of all together.
        files_mib: what fits into the private temporary directory; also the size of each file.
        output_kib: how much of the output is kept, from its start.
        processes: processes and threads.
        descriptors: open files of each process.
    """

    seconds: float = 10.0
    memory_mib: int = 512
    files_mib: int = 64
    output_kib: int = 64
    processes: int = 16
    descriptors: int = 64

    def require_sound(self, prefix: str = "") -> None:
        """Refuses limits that nothing can run under, or that limit nothing.

        Args:
            prefix: of the names that are refused, as the user gave them.

        Raises:
            UserError: names the first limit that is wrong, its value, and what it may be.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if field.name == "seconds":
                sound, wanted = number and 0 < value <= MOST_SECONDS, f"a number above 0, at most {MOST_SECONDS:g}"
            else:
                least = LEAST_MEMORY_MIB if field.name == "memory_mib" else 1
                sound, wanted = number and isinstance(value, int) and value >= least, f"a whole number from {least}"
            if not sound:
                raise UserError(f"{prefix}{field.name}={value} must be {wanted}")

    def bind(self, running: int) -> None:
        """Limits this process and all that it will start.

        Args:
            running: processes that the kernel counts for this user beside those of the program.
        """
        seconds = math.ceil(self.seconds)
        for kind, soft, hard in (
            (resource.RLIMIT_CPU, seconds, seconds + 1),
            (resource.RLIMIT_AS, self.memory_mib * MIB, self.memory_mib * MIB),
            (resource.RLIMIT_FSIZE, self.files_mib * MIB, self.files_mib * MIB),
            (resource.RLIMIT_NPROC, self.processes + running, self.processes + running),
            (resource.RLIMIT_NOFILE, self.descriptors, self.descriptors),
            (resource.RLIMIT_CORE, 0, 0),
            (resource.RLIMIT_MEMLOCK, 0, 0),
            (resource.RLIMIT_MSGQUEUE, 0, 0),
        ):
            most = resource.getrlimit(kind)[1]
            bounded = [value if most == resource.RLIM_INFINITY else min(value, most) for value in (soft, hard)]
            resource.setrlimit(kind, (bounded[0], bounded[1]))
