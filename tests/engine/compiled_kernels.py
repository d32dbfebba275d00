"""Compiles every Triton kernel for a GPU of compute capability 9.0, which needs no GPU. Run in a process of its own.

The interpreter accepts what the compiler does not; whoever has no GPU would notice only on the first that meets one.
"""

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from engine.snn.kernels import fused

FLAGS = {
    "_fire": [dict(CARRIED=False, KEEP=False), dict(CARRIED=True, KEEP=True)],
    "_fire_pooled": [dict(CARRIED=False), dict(CARRIED=True)],
    "_back": [
        dict(
            CARRIED=one,
            SPIKES=True,
            POOLED=one,
            AFTER=one,
            SUMS=not one,
            STRAIGHT=one,
            SHAPE=shape,
            GAIN=0.3,
            SHARPNESS=3.5,
        )
        for shape in ("triangle", "arctangent", "sigmoid")
        for one in (False, True)
    ],
    "_through_statistics": [{}],
    "_part_moments": [dict(MOMENT_ROWS=fused.MOMENT_ROWS)],
    "_rate_code": [dict(GOLDEN=0x9E3779B9, FIRST=0x7FEB352D, SECOND=0x846CA68B)],
}
SIZES = dict(BLOCK=fused.BLOCK, ROWS=fused.ROWS, CHANNELS=fused.CHANNELS)
NUMBERS = "count channels steps x_stride rows batch area start pool_width".split()
OF_SPIKES = ("x", "spikes", "averages", "dx")  # in the precision of the convolutions


def compiled(name: str, flags: dict, precision: str, ones: tuple[str, ...]) -> str:
    """The kernel's PTX; ones: whole numbers that are 1, of which Triton makes constants."""
    kernel = getattr(fused, name)
    names = kernel.arg_names
    constants = {n: value for n, value in (SIZES | flags).items() if n in names} | {n: 1 for n in ones if n in names}

    def kind(argument: str) -> str:
        if argument in constants:
            return "constexpr"
        if argument in NUMBERS:
            return "i32"
        if argument in ("leak", "threshold", "width"):
            return "fp32"
        return "*i64" if argument in ("low", "high") else f"*{precision if argument in OF_SPIKES else 'fp32'}"

    source = ASTSource(kernel, {n: kind(n) for n in names}, {(names.index(n),): v for n, v in constants.items()})
    return triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]


if __name__ == "__main__":
    for kernel, choices in FLAGS.items():
        for chosen in choices:
            for number_format in ("fp32", "bf16"):
                for ones in ((), ("rows", "steps"), ("channels", "batch", "area", "start", "x_stride")):
                    assert ".target sm_90" in compiled(kernel, chosen, number_format, ones)
        print(kernel)
